# The test binary's last will: `sh -c THIS sweep DIR`. Reads lines of shell from its standard input; when that ends (the
# tests are over, or were killed), runs them, takes away all that still names DIR, and says on standard output what it
# found, a line for each thing. Silence means that nothing was left.
trap '' PIPE INT HUP TERM
dir=$1
will=
namespaces=

# namespace NAME: what runs in cgroups of that containerd namespace belongs to the tests too.
namespace() { namespaces="$namespaces $1"; }

# The processes that name DIR in their arguments or environment, or live in a cgroup of one of the namespaces.
processes() {
    grep -lsF -e "$dir" /proc/[0-9]*/cmdline /proc/[0-9]*/environ
    for namespace in $namespaces; do grep -lsF -e "/$namespace/" /proc/[0-9]*/cgroup; done
}

pids() { processes | cut -d/ -f3 | sort -un | grep -vx "$$"; }

while IFS= read -r line; do
    will="$line
$will"
done
eval "$will"

# Nobody may be there to listen any more.
found() { echo "$*" 2>/dev/null || :; }
# A shim listens on a socket named by the hash of containerd's socket, namespace and id; killed, it leaves it there.
sockets=$(
    for bundle in "$dir"/containerd*/state/io.containerd.runtime.v2.task/*/*/; do
        id=${bundle%/}
        printf %s "${bundle%%/state/*}/containerd.sock/${id#*/io.containerd.runtime.v2.task/}" | sha256sum | cut -c1-64
    done
)

# Several rounds: who is killed may have just started another.
for round in 1 2 3 4 5 6 7 8 9 10; do
    alive=0
    for pid in $(pids); do
        name=$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null) || continue
        [ -n "$name" ] || continue # a zombie
        case $name in *"sweep $dir"*|grep*) continue ;; esac
        found "process $pid: $name"
        kill -KILL "$pid" 2>/dev/null
        alive=1
    done
    [ "$alive" = 1 ] || break
    sleep 0.1
done

grep -F -e " $dir" /proc/self/mountinfo | cut -d' ' -f5 | sort -r | while read -r mount; do
    found "mount $mount"
    umount -l "$mount"
done
for namespace in $namespaces; do
    # The namespace's own cgroup stays when runc takes its containers' away; that is runc's way, and no leak.
    find /sys/fs/cgroup -depth -type d -path "*$namespace*/*" 2>/dev/null | while read -r cgroup; do
        found "cgroup $cgroup"
        rmdir "$cgroup"
    done
    find /sys/fs/cgroup -depth -type d -name "*$namespace*" -exec rmdir {} \; 2>/dev/null
    rmdir "/run/containerd/runc/$namespace" 2>/dev/null # runc keeps its empty root
    if [ -e "/run/containerd/runc/$namespace" ]; then
        found "runc state /run/containerd/runc/$namespace"
        rm -rf "/run/containerd/runc/$namespace"
    fi
done
for socket in $sockets; do
    [ -e "/run/containerd/s/$socket" ] && found "shim socket $socket" && rm -f "/run/containerd/s/$socket"
done
rm -rf --one-file-system "$dir" || found "$dir cannot be removed"
