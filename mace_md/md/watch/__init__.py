"""What looks at a run and judges it: before step 1, while it runs, and when something outside breaks."""
