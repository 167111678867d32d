"""Tests the alerts with the metrics of a real daemon, in two states: everything works, and much fails.

    python3 configs/prometheus/recorded.py [--lookout FILE] [--promtool FILE]

Starts the demo's cameras, a broker, a webhook and the daemon, and records its /metrics while everything works. Then it
stops the cameras, the broker and the webhook, fills the daemon's disk, and records again. promtool then says which
alerts would fire: none in the first state, and those of FAILING in the second. Mounting the small disk needs root.
Alerts about rates, such as skipped captions, are silent in the first state; that they fire is tested by tests.yml.
"""

import argparse
import contextlib
import http.server
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ALERTS = REPOSITORY / "configs/prometheus/alerts.yml"

# The alerts of the second state, and how many of each.
FAILING = {
    "LookoutCameraDown": 2,
    "LookoutRunsOnCpu": 1,
    "LookoutDiskFailing": 1,
    "LookoutJournalFailing": 1,
    "LookoutRuleBlind": 2,
    "LookoutDeliveryFailing": 1,
    "LookoutBrokerAway": 1,
}
PATIENCE = 120


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what: str, is_there):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if found := is_there():
                return found
        time.sleep(0.2)
    raise SystemExit(f"waited {PATIENCE} s for {what}")


class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


class Site:
    """The daemon and everything that it needs, in a folder."""

    def __init__(self, lookout: Path, folder: Path, device: str):
        self.folder, self.port = folder, free_port()
        self.disk = folder / "disk"
        self.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16M", "none", self.disk], check=True)
        self.cameras = subprocess.Popen(
            [lookout, "demo-cameras", "--listen", "127.0.0.1:0"]
            + [f"{name}={REPOSITORY}/models/demo/cameras/{name}.mp4" for name in ("gate", "yard")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        rtsp = self.cameras.stdout.readline().removeprefix("ready ").strip()
        self.hook = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
        threading.Thread(target=self.hook.serve_forever, daemon=True).start()
        mqtt = free_port()
        (folder / "broker.conf").write_text(f"listener {mqtt} 127.0.0.1\nallow_anonymous true\n")
        self.broker = subprocess.Popen(["/usr/sbin/mosquitto", "-c", folder / "broker.conf"], stderr=subprocess.DEVNULL)
        config = f"""
            [model]
            package = {json.dumps(str(REPOSITORY / "models/demo/package"))}
            device = "{device}"
            plan = "8:slowfast-slow_4frms_spatial_1d_max_pool-fast_2x4"
            [generate]
            max_new_tokens = 16
            [buffer.disk]
            folder = "disk/frames"
            bytes = "4 MiB"
            [journal]
            folder = "disk/journal"
            [grpc]
            listen = "127.0.0.1:{free_port()}"
            [http]
            listen = "127.0.0.1:{self.port}"
            [mqtt]
            broker = "mqtt://127.0.0.1:{mqtt}"
            [[webhook]]
            name = "hook"
            url = "http://127.0.0.1:{self.hook.server_port}"
            max_retry_delay = "1s"
            [[rule]]
            name = "moving"
            question = "Is anything moving?"
            on = 0.01
            off = 0.0
            of = "1/1"
            hold = "10s"
        """
        for name in ("gate", "yard"):
            config += f"""
                [[camera]]
                name = "{name}"
                url = "rtsp://127.0.0.1:{rtsp}/{name}"
                fps = 2
                window = "4s"
                caption_interval = "4s"
                max_caption_delay = "30s"
            """
        (folder / "lookout.toml").write_text(config)
        self.log = (folder / "log").open("w")
        command = [lookout, "run", "--config", folder / "lookout.toml"]
        self.daemon = subprocess.Popen(command, stderr=self.log)
        wait_for("an alert of each camera", lambda: self.sum("lookout_alerts_total") >= 2)
        wait_for("the delivery", lambda: self.sum("lookout_delivery_attempts_total") >= 2)

    def metrics(self) -> dict[str, float]:
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10).read().decode()
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
        return {series: float(value) for series, value in lines}

    def sum(self, name: str) -> float:
        return sum(value for series, value in self.metrics().items() if re.split("[{ ]", series)[0] == name)

    def fail(self):
        """Lets everything fail, and waits until the metrics say so."""
        self.hook.shutdown()
        self.hook.server_close()
        wait_for("a failed delivery", lambda: self.sum("lookout_delivery_failing") == 1)
        (self.disk / "filler").write_bytes(b"")
        with contextlib.suppress(OSError), (self.disk / "filler").open("ab", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        wait_for("a full disk", lambda: self.sum("lookout_disk_failing") == 1)
        wait_for("a full journal", lambda: self.sum("lookout_journal_failing") == 1)
        self.broker.kill()
        self.cameras.kill()
        wait_for("a broker that is away", lambda: self.sum("lookout_mqtt_connected") == 0)
        wait_for("lost cameras", lambda: self.sum("lookout_camera_live") == 0)
        wait_for("blind rules", lambda: self.sum("lookout_rule_blind") == 2)

    def close(self):
        for process in (self.daemon, self.cameras, self.broker):
            process.kill()
            process.wait()
        subprocess.run(["umount", "--lazy", self.disk], check=True)


def series_of(first: dict, second: dict, seconds: float) -> list[dict]:
    """Returns an hour of samples: gauges as they are, counters as fast as between two records."""
    found = [{"series": 'up{job="lookout", instance="a"}', "values": "1x60"}]
    for name, value in second.items():
        growth = (value - first.get(name, value)) * 60 / seconds
        counts = re.split("[{ ]", name)[0].endswith(("_total", "_bucket", "_count", "_sum"))
        labels = name.partition("{")[2].rstrip("}")
        labels = 'instance="a"' + (f",{labels}" if labels else "")
        values = f"{value:.6f}+{growth:.6f}x60" if counts and growth >= 0 else f"{value:.6f}x60"
        found.append({"series": f"{name.partition('{')[0]}{{{labels}}}", "values": values})
    return found


def test_of(name: str, series: list[dict], alerts: dict[str, int]) -> dict:
    samples = [{"labels": f'{{alertname="{alert}"}}', "value": count} for alert, count in alerts.items()]
    expression = 'count by (alertname) (ALERTS{alertstate="firing"})'
    checked = [{"expr": expression, "eval_time": "60m", "exp_samples": samples}]
    return {"name": name, "interval": "1m", "input_series": series, "promql_expr_test": checked}


def recorded(lookout: Path, device: str, fails: bool) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        site = Site(lookout, Path(folder), device)
        try:
            if fails:
                site.fail()
            first, began = site.metrics(), time.monotonic()
            time.sleep(20)
            return series_of(first, site.metrics(), time.monotonic() - began)
        finally:
            site.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lookout", type=Path, default=REPOSITORY / "target/debug/lookout")
    parser.add_argument("--promtool", default="promtool")
    options = parser.parse_args()
    tests = [
        test_of("everything works", recorded(options.lookout, "cpu", fails=False), {}),
        test_of("much fails", recorded(options.lookout, "auto", fails=True), FAILING),
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recorded.yml"
        # JSON is YAML, too.
        file.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
        sys.exit(subprocess.run([options.promtool, "test", "rules", file]).returncode)


if __name__ == "__main__":
    main()
