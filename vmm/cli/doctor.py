"""`vmm doctor`: explain this host's KVM, or an image, to a person or to a script."""

import json

from ..config import KEYWORDS
from ..errors import ConfigError
from ..foreign_text import printable
from ..host.report import (
    OPTIONAL_CAPABILITIES,
    HostReport,
    examine,
)
from ..kvm.kvm import DEV_KVM, REQUIRED_CAPABILITIES
from .messages import tell
from .options import Options


def examine_and_print(path: str, as_json: bool) -> int:
    """Print what an image is; returns 0. Raises ImageError if no run would take it."""
    from .image_report import (  # the host's report has no use for it
        examine_image,
        lines,
    )

    report = examine_image(path)
    if as_json:
        tell(json.dumps(report.to_dict(), indent=2))
    else:
        tell(printable("\n".join(lines(report))))
    return 0


def check_options(options: Options) -> None:
    """Raises ConfigError for one that says what a machine is, where none is meant."""
    for name, value in vars(options).items():
        if name in KEYWORDS and value is not None:
            raise ConfigError(f"{name}: it is for a machine: pass --machine, too")


def run_doctor(as_json: bool) -> int:
    """Print the report; returns 0 if guests can run here, else 1."""
    report = examine()
    if as_json:
        tell(json.dumps(report.to_dict(), indent=2))
    else:
        tell(printable("\n".join(_lines(report))))
    return 0 if report.usable else 1


def _lines(report: HostReport) -> list[str]:
    lines = [
        f"KVM         {report.kind}{f' ({report.module})' if report.module else ''}: "
        f"{report.explanation}",
        f"{DEV_KVM}    {report.permission}",
        f"run loop    {report.run_loop}",
    ]
    for title, names in (
        ("needed", REQUIRED_CAPABILITIES),
        ("used if there", OPTIONAL_CAPABILITIES),
    ):
        for name in names:
            if name in report.capabilities:
                value = report.capabilities[name]
                lines.append(f"  {name:<32} {value or 'missing':<8} {title}")
    lines += [f"problem: {problem}" for problem in report.problems]
    if not report.problems:
        lines.append("no problems found")
    return lines
