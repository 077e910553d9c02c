#!/bin/busybox sh
# First process of the virtual machine: mounts, network, containerd, the agent. What it and they say goes to the console.
/bin/busybox --install -s /bin
export PATH=/bin
hostname vm
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
for module in virtio_net overlay veth bridge nf_tables loop; do modprobe "$module"; done
word() { sed -n "s/.*$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
mount -t "$(word kind)" -o "$(word options)" /dev/vdb /state/volumes || echo "volumes not mounted"
ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' >/run/containerd.toml
containerd -c /run/containerd.toml &
export NODE_PORT=8090 CHAS_LISTEN=0.0.0.0 CHAS_STATE_DIR=/state CHAS_TOKEN="$(word token)" CHAS_REGISTRY_INSECURE="$(word registry)"
export NODE_ID=vm LOG_LEVEL=DEBUG CHAS_PLAIN_HTTP=true
while :; do
    agent daemon
    echo "agent ended: $?"
    sleep 1
done
