#!/bin/sh
# A hook of mmdebstrap's: makes the system in "$1" one that boots from a partition with
# the UUID $PARTUUID, and the ext4 of it at 1 MiB of the file $IMAGE, of $SIZE KiB.
set -eu
root=$1

echo "PARTUUID=$PARTUUID / ext4 rw,errors=remount-ro 0 1" >"$root/etc/fstab"
echo debian >"$root/etc/hostname"
cat >"$root/etc/default/grub" <<'END'
GRUB_DISTRIBUTOR=Debian
GRUB_TIMEOUT=0
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"
END

# Debian's own scripts write grub.cfg. They ask what the file system is on, which is
# nothing here.
probe=$root/usr/sbin/grub-probe
mv "$probe" "$probe.real"
cat >"$probe" <<'END'
#!/bin/sh
case "$*" in
*--target=fs_uuid*) echo 3f0c8d7e-55aa-4c0e-9d55-0123456789ab ;;
*--target=partuuid*) echo "$PARTUUID" ;;
*--target=device*) echo /dev/vda1 ;;
*--target=fs*) echo ext2 ;;
*--target=partmap*) echo gpt ;;
esac
END
chmod +x "$probe"
mkdir -p "$root/boot/grub"
chroot "$root" grub-mkconfig -o /boot/grub/grub.cfg
mv "$probe.real" "$probe"

# Without the /proc and so on that are mounted in it while hooks run.
bare=$(mktemp -d)
mount --bind "$root" "$bare"
mke2fs -q -F -t ext4 -U 3f0c8d7e-55aa-4c0e-9d55-0123456789ab -E offset=1048576 \
    -d "$bare" "$IMAGE" "${SIZE}k"
umount "$bare"
rmdir "$bare"
