"""Shares: a machine's shared directories, and whether its kernel can mount them."""

from typing import TYPE_CHECKING

from ..devices.errors import ResourceError
from ..errors import ConfigError
from ..vhost_user.virtiofsd import VhostUserFs
from .builder import SavedBoot

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config import MachineConfig
    from ..devices.virtio.device import VirtioDevice
    from .builder import Boot


def plug_shares(
    config: "MachineConfig",
    boot: "Boot | SavedBoot",
    plug: "Callable[[VirtioDevice], None]",
) -> None:
    """In their order. Raises ConfigError."""
    if not isinstance(boot, SavedBoot):
        _check_kernel(boot)
    for share in config.shares:
        device = VhostUserFs(share)
        try:
            plug(device)
        except BaseException as error:
            device.close()
            if isinstance(error, ResourceError):
                message = f"shares: {share.path!r} has no place: {error}"
                raise ConfigError(message) from None
            raise


def _check_kernel(boot: "Boot") -> None:
    from ..boot.embedded_config import embedded_config

    options = embedded_config(boot.kernel.file)
    if options is not None and options.get("VIRTIO_FS") not in ("y", "m"):
        raise ConfigError(
            f"shares: kernel {boot.kernel.file.path!r} can't mount them: it was built "
            "without CONFIG_VIRTIO_FS"
        )
