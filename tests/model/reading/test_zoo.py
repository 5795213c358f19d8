"""Published models: what is said of them, and how their files are fetched, from a server on this machine."""

import errno
import hashlib
import http.server
import os
import platform
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from mace_md.errors import InputError
from mace_md.model.reading import zoo
from mace_md.model.reading.zoo import ASL, MIT, MODELS, PublishedModel, cache_folder, fetch, find_model

CONTENT = b"PK\x03\x04" + bytes(range(256)) * 3000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the name of the file; counts the requests."""

    requests: list[str] = []

    def do_GET(self):
        name = self.path.rsplit("/", 1)[1]
        self.requests.append(name)
        if name == "missing.model":
            self.send_error(404)
            return
        if name.startswith("moved"):
            self.send_response(302)
            own = f"http://127.0.0.1:{self.server.server_port}/good.model"
            self.send_header("Location", "ftp://127.0.0.1/good.model" if name == "moved_away.model" else own)
            self.end_headers()
            return
        body = {
            "page.model": b"<!DOCTYPE html><html>sign in</html>",
            "disguised.model": b"\n<html>moved</html>" * 100,
            "pointer.model": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "text.model": b"Too many requests",
        }.get(name, CONTENT)
        self.send_response(200)
        self.send_header(
            "Content-Type", "text/html; charset=utf-8" if name == "page.model" else "application/octet-stream"
        )
        if name != "unsized.model":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if name == "cut.model" else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    Handler.requests.clear()
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def published(url: str, sha256: str | None = SHA256, size: int | None = len(CONTENT)) -> PublishedModel:
    return PublishedModel("test-model", url, MIT, "H O", 5.0, "PBE", "not included", "nobody", sha256, size)


# --- fetching ---


@pytest.mark.parametrize("name", ["good.model", "unsized.model"])
def test_a_file_is_fetched_once_and_checked(name, server, tmp_path):
    seen = []
    model = published(f"{server}/v1/{name}")
    folder = tmp_path / "deep" / "cache"
    path = fetch(model, folder, progress=lambda done, total: seen.append((done, total)))
    assert path == folder / name and path.read_bytes() == CONTENT
    assert os.listdir(folder) == [name], "nothing but the file is left"
    assert seen[-1] == (len(CONTENT), None if name == "unsized.model" else len(CONTENT))
    assert fetch(model, folder) == path and Handler.requests == [name]
    assert path.stat().st_mode & 0o777 == 0o644


def test_without_known_size_and_hash_the_file_is_taken(server, tmp_path):
    assert fetch(published(f"{server}/good.model", None, None), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("name, facts, message", [
    ("missing.model", {}, "answered 404"),
    ("page.model", {}, "sent a web page"),
    ("disguised.model", {"size": None}, "it is a web page"),
    ("pointer.model", {"size": None}, "Git LFS pointer"),
    ("text.model", {"size": None}, "not a torch file"),
    ("cut.model", {}, r"ended after \d+ of 768004 bytes|retrieval incomplete|cannot reach"),
    ("good.model", {"sha256": "0" * 64}, f"SHA-256 is {SHA256} instead of 0000"),
    ("good.model", {"size": 5}, "sends 768004 bytes or more, but the file has 5"),
    ("unsized.model", {"size": 5}, r"sends \d+ bytes or more, but the file has 5"),
    ("moved_away.model", {}, "redirects from http to ftp .ftp://127.0.0.1/good.model., which is not followed"),
])  # fmt: skip
def test_what_is_not_the_model_is_refused_and_leaves_nothing(name, facts, message, server, tmp_path):
    model = replace(published(f"{server}/{name}"), **facts)
    with pytest.raises(InputError, match=message) as error:
        fetch(model, tmp_path)
    text = str(error.value)
    assert model.url in text and str(tmp_path / name) in text, "address and place are said"
    assert "\n" not in text
    assert os.listdir(tmp_path) == []


def test_offline_says_the_address_and_the_place(tmp_path):
    model = published("http://127.0.0.1:9/closed.model")  # port 9 is discard: nobody listens
    with pytest.raises(InputError, match="cannot reach http://127.0.0.1:9/closed.model") as error:
        fetch(model, tmp_path)
    assert str(tmp_path / "closed.model") in str(error.value)


def test_a_file_put_there_by_hand_is_used_without_a_connection(tmp_path):
    model = published("http://127.0.0.1:9/by_hand.model")
    (tmp_path / "by_hand.model").write_bytes(CONTENT)
    assert fetch(model, tmp_path) == tmp_path / "by_hand.model"


def test_a_damaged_file_in_the_cache_is_refused_and_kept(server, tmp_path):
    model = published(f"{server}/good.model")
    (tmp_path / "good.model").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(InputError, match="Remove the file"):
        fetch(model, tmp_path)
    assert (tmp_path / "good.model").exists() and Handler.requests == []


def test_an_interrupted_download_can_be_repeated(server, tmp_path):
    model = published(f"{server}/good.model")

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(model, tmp_path, progress=interrupt)
    assert os.listdir(tmp_path) == []
    assert fetch(model, tmp_path).read_bytes() == CONTENT


def test_a_redirect_of_the_same_protocol_is_followed(server, tmp_path):
    assert fetch(published(f"{server}/moved.model"), tmp_path).read_bytes() == CONTENT


def test_an_unknown_size_has_a_limit(server, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "_LARGEST", 1000)
    for name in ("good.model", "unsized.model"):
        with pytest.raises(InputError, match="no published model has more than 1000"):
            fetch(published(f"{server}/{name}", None, None), tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_killed_downloads_left_is_taken_away(server, tmp_path):
    """Of this machine when the process is gone, of others when it is old; running ones and other files stay."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    here, alive = platform.node(), subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    gone = [f".good.model.{here}.{done.pid}.part", ".good.model.x8_k2v"]
    kept = [f".good.model.{here}.{alive.pid}.part", ".good.model.elsewhere.1.part", ".other.model.x8_k2v", "notes.txt"]
    for name in gone + kept:
        (tmp_path / name).write_bytes(b"PK")
    os.utime(tmp_path / ".good.model.x8_k2v", (0, 0))
    fetch(published(f"{server}/good.model"), tmp_path)
    alive.communicate(b"\n")
    assert set(os.listdir(tmp_path)) == {"good.model", *kept}


def test_a_full_disk_names_the_place_and_the_way_out(server, tmp_path, monkeypatch):
    def full(model, file, target, progress):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zoo, "_download", full)
    with pytest.raises(InputError, match=r"good\.model: cannot be written .No space.*Make room, or .*--cache"):
        fetch(published(f"{server}/good.model"), tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("MACE_MD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mace-md"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "mace-md"
    monkeypatch.setenv("MACE_MD_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    assert not (tmp_path / "mine").exists(), "asking creates nothing"


def test_a_named_model_loads_with_its_licence(server, monkeypatch, tmp_path, foreign_models):
    from mace_md.model.reading.checkpoint import load_model

    content = (foreign_models / "last_readout.model").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    model = replace(
        published("http://127.0.0.1:9/last_readout.model", sha256, len(content)), name="tiny-one", licence=ASL
    )
    monkeypatch.setattr(zoo, "MODELS", (*MODELS, model))
    monkeypatch.setenv("MACE_MD_CACHE", str(tmp_path))
    (tmp_path / "last_readout.model").write_bytes(content)
    info = load_model("Tiny_One").info
    assert (info.name, info.licence, info.sha256) == ("tiny-one", ASL, sha256)
    assert (info.level_of_theory, info.dispersion) == ("PBE", "not included")


def test_a_published_file_is_known_by_its_hash(monkeypatch, tmp_path, foreign_models, caplog):
    from mace_md.model.reading.checkpoint import describe_model, load_model, save_model

    content = (foreign_models / "last_readout.model").read_bytes()
    model = replace(published("http://127.0.0.1:9/x.model", hashlib.sha256(content).hexdigest()), licence=ASL)
    monkeypatch.setattr(zoo, "MODELS", (*MODELS, model))
    path = tmp_path / "renamed.model"
    path.write_bytes(content)
    with caplog.at_level("INFO", logger="mace_md"):
        loaded = load_model(path)
    assert (loaded.info.name, loaded.info.licence) == ("test-model", ASL)
    assert "no commercial use" in caplog.text
    assert describe_model(path)[1].licence == ASL
    assert load_model(save_model(loaded, tmp_path / "copy.mace")).info.licence == ASL, "a copy keeps its licence"
    path.write_bytes((foreign_models / "off_L0.model").read_bytes())
    assert load_model(path).info.licence == "unknown"


# --- what is said ---


def test_the_table_is_consistent():
    names = [model.name for model in MODELS]
    assert len(set(names)) == len(names) and len({model.file_name for model in MODELS}) == len(names)
    for model in MODELS:
        if not model.bundled:
            assert model.url.startswith("https://") and model.file_name.endswith(".model")
        assert model.licence in (MIT, ASL)
        assert model.sha256 is None or len(model.sha256) == 64 and int(model.sha256, 16)
        assert model.r_max is None or 3 < model.r_max < 10
        assert model.name == model.name.lower()


def test_academic_licences_are_said():
    academic = {model.name for model in MODELS if model.licence == ASL}
    assert {name for name in academic if name.startswith("mace-off")} == {
        "mace-off23-small", "mace-off23-medium", "mace-off23-large", "mace-off24-medium"
    }  # fmt: skip
    assert {"mace-omat-0-small", "mace-omat-0-medium", "mace-matpes-pbe-0", "mace-matpes-r2scan-0"} <= academic
    assert not any("mp-0" in name or "mpa" in name for name in academic)
    assert "no commercial use" in find_model("mace-off23-small").licence_line()


def test_names_are_found_or_explained():
    assert find_model("MACE_OFF23_Small").name == "mace-off23-small"
    with pytest.raises(InputError, match="Did you mean mace-mpa-0-medium"):
        find_model("mace-mpa-0-mediun")
    with pytest.raises(InputError, match="models list"):
        find_model("gpt")
    for name, text in (("maceles-off", "CC BY-NC"), ("mace-mdp", "Nilsgoe/MACE-MDP")):
        with pytest.raises(InputError, match=f"{text}.*give its path"):
            find_model(name)


def test_models_with_further_inputs_say_them():
    assert find_model("mace-omol-0").inputs == "charge, spin"
    assert find_model("mace-polar-1-m").range.startswith("long") and find_model("mace-polar-1-m").licence == ASL
    assert find_model("mace-mh-1").inputs == "head"
    assert find_model("mace-mp-0-large").url != find_model("mace-mp-0-large-2022.9").url
