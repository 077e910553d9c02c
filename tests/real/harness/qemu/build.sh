#!/bin/sh
# Builds the disks of a virtual machine from this computer's own programs.
#   usage: build.sh DIR KERNEL AGENT INIT KIND    (KIND: ext4 or xfs, of the volumes' disk)
set -eu
dir=$1 kernel=$2 agent=$3 init=$4 kind=$5
version=$(ls "$kernel/lib/modules")
root=$dir/root
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/run" "$root/tmp" "$root/state/volumes" "$root/etc" "$root/var/lib" "$root/lib/modules/$version"
for link in sbin usr/bin usr/sbin; do mkdir -p "$root/$(dirname "$link")"; ln -s /bin "$root/$link"; done
for program in busybox containerd containerd-shim-runc-v2 runc chattr lsattr setquota repquota nft iptables ip modprobe timeout mount; do
    path=$(PATH=$PATH:/usr/sbin:/sbin command -v "$program") || { echo "$program is not installed" >&2; exit 1; }
    cp -L "$path" "$root/bin/$program"
done
cp "$agent" "$root/bin/agent"
strip --strip-debug "$root/bin/agent"
for program in "$root"/bin/*; do
    ldd "$program" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        [ -e "$root$library" ] || cp -L "$library" "$root$library"
    done
done
cp "$init" "$root/init"
chmod +x "$root/init"
touch "$root/etc/resolv.conf"
echo root:x:0:0:root:/:/bin/sh >"$root/etc/passwd"
cp -r "$kernel/lib/modules/$version/." "$root/lib/modules/$version/"

# What mounts the root file system: the modules for that alone.
ram=$dir/ram
mkdir -p "$ram/bin" "$ram/proc" "$ram/root" "$ram/modules" "$ram/dev"
cp "$(command -v busybox)" "$ram/bin/busybox"
for module in virtio_pci virtio_blk; do modprobe -d "$kernel" -S "$version" --show-depends "$module"; done |
    sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' | while read -r file; do
        cp "$file" "$ram/modules/"
        basename "$file"
    done >"$ram/order"
cat >"$ram/init" <<'END'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod "/modules/$module"; done </order
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mount -o move /dev /root/dev
exec /bin/busybox switch_root /root /init
END
chmod +x "$ram/init"
ln -s busybox "$ram/bin/sh"
(cd "$ram" && find . | cpio -o -H newc --quiet) >"$dir/ram.cpio"

mke2fs -q -t ext4 -d "$root" "$dir/root.disk" 600M
truncate -s 400M "$dir/volumes.disk"
case $kind in
ext4) mke2fs -q -t ext4 -O quota,project -E quotatype=prjquota "$dir/volumes.disk" ;;
xfs) mkfs.xfs -q "$dir/volumes.disk" ;;
esac
rm -r "$root" "$ram"
