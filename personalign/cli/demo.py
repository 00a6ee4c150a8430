"""The demonstration: demo."""

from __future__ import annotations

from personalign.cli.options import AsJson, Device
from personalign.cli.output import err, out, print_row
from personalign.cli.show import show_demo


def demo(device: Device = None, as_json: AsJson = False) -> None:
    """Onboard two opposite people and answer the same prompts for each."""
    from personalign.demo.run import run_demo
    from personalign.settings import Settings

    with err.status("starting") as status:
        found = run_demo(device or Settings().device, status.update)
    print_row(found.to_json(), as_json, show_demo, out, found)
