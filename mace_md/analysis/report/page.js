"use strict";
(function () {
  const place = document.getElementById("viewer");
  const data = document.getElementById("molecule");
  if (place && data) {
    try {
      show(JSON.parse(data.textContent));
    } catch (error) {
      instead("This browser cannot draw the moving molecule here.");
    }
  }
  const copy = document.getElementById("copy");
  if (copy) {
    copy.addEventListener("click", async () => {
      const text = document.getElementById("bibtex");
      try {
        await navigator.clipboard.writeText(text.textContent);
        copy.textContent = "Copied";
      } catch (error) {
        const range = document.createRange();
        range.selectNodeContents(text);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        copy.textContent = "Selected: copy it with your keyboard";
      }
    });
  }

  function instead(text) {
    place.textContent = "";
    const said = document.createElement("p");
    said.textContent = text;
    place.append(said);
    document.getElementById("controls").hidden = true;
  }

  function numbers(molecule) {
    const bytes = Uint8Array.from(atob(molecule.positions), (letter) => letter.charCodeAt(0));
    const values = new Int16Array(bytes.buffer);
    return Float32Array.from(values, (value) => value * molecule.scale);
  }

  function show(molecule) {
    const probe = document.createElement("canvas");
    if (!(probe.getContext("webgl2") || probe.getContext("webgl"))) {
      instead("The moving molecule needs WebGL, which this browser has switched off.");
      return;
    }
    const count = molecule.elements.length, frames = molecule.times.length, positions = numbers(molecule);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const viewer = $3Dmol.createViewer(place, { backgroundColor: "white", backgroundAlpha: 0, antialias: true });
    const atoms = molecule.elements.map((element, i) => ({
      elem: element, x: positions[3 * i], y: positions[3 * i + 1], z: positions[3 * i + 2],
      bonds: [], bondOrder: [], index: i, serial: i,
    }));
    for (const [i, j] of molecule.bonds) {
      atoms[i].bonds.push(j); atoms[i].bondOrder.push(1);
      atoms[j].bonds.push(i); atoms[j].bondOrder.push(1);
    }
    const model = viewer.addModel();
    model.addAtoms(atoms);
    const many = count > 120;
    const style = { stick: { radius: many ? 0.09 : 0.13 }, sphere: { scale: many ? 0.18 : 0.25 } };
    viewer.setStyle({}, style);
    const shapes = [];
    function cell(frame) {
      if (!molecule.boxes) return;
      shapes.splice(0).forEach((shape) => viewer.removeShape(shape));
      const box = molecule.boxes[Math.min(frame, molecule.boxes.length - 1)];
      const corner = (i, j, k) => [0, 1, 2].map((d) => i * box[0][d] + j * box[1][d] + k * box[2][d]);
      const point = (c) => ({ x: c[0], y: c[1], z: c[2] });
      const colour = dark.matches ? "#a9b2bc" : "#59636e";
      for (const i of [0, 1]) for (const j of [0, 1]) for (const [a, b] of [
        [[0, i, j], [1, i, j]], [[i, 0, j], [i, 1, j]], [[i, j, 0], [i, j, 1]]]) {
        shapes.push(viewer.addLine({ start: point(corner(...a)), end: point(corner(...b)), color: colour }));
      }
    }
    const own = model.selectedAtoms({});
    function frame(number) {
      const start = 3 * count * number;
      for (let i = 0; i < count; i++) {
        own[i].x = positions[start + 3 * i];
        own[i].y = positions[start + 3 * i + 1];
        own[i].z = positions[start + 3 * i + 2];
      }
      model.setStyle({}, style);
      cell(number);
      viewer.render();
      slider.value = number;
      time.textContent = molecule.times[number].toPrecision(4) + " ps";
      slider.setAttribute("aria-valuetext", time.textContent);
    }
    const slider = document.getElementById("frame"), time = document.getElementById("time");
    const play = document.getElementById("play");
    slider.max = frames - 1;
    slider.addEventListener("input", () => frame(Number(slider.value)));
    let running = false, last = 0;
    function step(now) {
      if (!running) return;
      if (now - last > 66) {
        last = now;
        frame((Number(slider.value) + 1) % frames);
      }
      requestAnimationFrame(step);
    }
    play.addEventListener("click", () => {
      running = !running;
      play.textContent = running ? "Pause" : "Play";
      if (running) requestAnimationFrame(step);
    });
    if (frames < 2) document.getElementById("controls").hidden = true;
    frame(0);
    viewer.zoomTo();
    viewer.zoom(1.1);
    viewer.render();
    dark.addEventListener("change", () => frame(Number(slider.value)));
  }
})();
