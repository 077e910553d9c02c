# shellcheck shell=bash
# Sourced by quickstart and bench: functions that start a whole node (containerd, a registry, the agent) in the directory
# NODE, and remove it. The host's own containerd is not touched.
# What is chosen once (ports, the subnet) and what a person may change (configuration, tokens, sets) is kept as long as the
# node exists.

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# These names differ from those of another clone, and of an agent installed on this host.
TAG=$(printf %s "$NODE" | cksum | cut -d' ' -f1)
NAMESPACE=quickstart-$TAG
BRIDGE=qs$TAG
# cargo's profile: `PROFILE=release contrib/quickstart` makes the program that is shipped, in a quarter of an hour.
PROFILE=${PROFILE:-quick}
SOCKET=$NODE/containerd/containerd.sock
# shellcheck source=contrib/packages.sh
source "$REPOSITORY/contrib/packages.sh"
# First line of a set that nobody has written yet.
EMPTY_SET='# Nothing is listed yet.'
BOLD='' RED='' PLAIN=''
[[ ! -t 1 || ! -t 2 ]] || BOLD=$'\e[1m' RED=$'\e[31m' PLAIN=$'\e[0m'
STEP='' STEP_LOG='' STEP_ADVICE='' STEP_BEGAN=0

# step NAME [LOG [ADVICE]]: begins a step. If it fails, the end of LOG and the ADVICE are shown.
step() {
    step_done
    STEP=$1 STEP_LOG=${2:-} STEP_ADVICE=${3:-} STEP_BEGAN=${EPOCHREALTIME/[.,]/}
    printf '\n%s== %s%s\n' "$BOLD" "$STEP" "$PLAIN"
}

step_done() {
    [[ -n $STEP ]] || return 0
    local took=$((${EPOCHREALTIME/[.,]/} - STEP_BEGAN))
    printf '   done in %d.%d s\n' $((took / 1000000)) $((took / 100000 % 10))
    STEP=''
}

say() { printf '   %s\n' "$*"; }

indent() { sed 's/^/   /'; }

fail() {
    printf '\n%s%s%s\n' "$RED" "$*" "$PLAIN" >&2
    exit 1
}

# For `trap … EXIT`: prints the failed step, the end of its log, and the advice.
explain_failure() {
    local status=$?
    [[ $status -ne 0 && -n $STEP ]] || return 0
    printf '\n%sFailed: %s%s\n' "$RED" "$STEP" "$PLAIN" >&2
    if [[ -s $STEP_LOG ]]; then
        printf 'The end of %s:\n' "$STEP_LOG" >&2
        tail -n 20 "$STEP_LOG" | sed 's/^/   | /' >&2
    fi
    [[ -z $STEP_ADVICE ]] || printf 'What to do: %s\n' "$STEP_ADVICE" >&2
}

need_root() { [[ $EUID -eq 0 ]] || fail "$0 creates network interfaces and containers: run it as root (sudo $0)."; }

# Checks the host for conditions that would fail minutes later without a clear message.
check_host() {
    need_root
    # A socket's path has at most 107 bytes; containerd appends `.ttrpc` to this one.
    [[ ${#SOCKET} -le 100 ]] || fail "$SOCKET is too long for a socket's path: clone into a directory with a shorter name."
    [[ $(stat -f -c %T "$REPOSITORY") != overlayfs ]] ||
        fail "$REPOSITORY is on an overlay file system (inside a container?), on which containerd cannot mount another: clone onto a disk."
}

# build_agent [PROGRAM...]: builds the agent and these programs of the workspace (chas-api) with cargo, as the clone's owner if
# the owner called sudo, and sets AGENT. Nothing is built that only tests need. FEATURES: of the agent, if any.
build_agent() {
    local cargo=cargo as=() packages=() program
    if [[ -n ${SUDO_USER:-} && $(stat -c %U "$REPOSITORY") == "$SUDO_USER" ]]; then
        as=(runuser -u "$SUDO_USER" -- env "HOME=$(getent passwd "$SUDO_USER" | cut -d: -f6)")
        # shellcheck disable=SC2016 # the owner's HOME, not root's
        cargo=$("${as[@]}" bash -lc 'PATH=$HOME/.cargo/bin:$PATH command -v cargo' || true)
    else
        cargo=$(PATH=$HOME/.cargo/bin:$PATH command -v cargo || true)
    fi
    [[ -n $cargo ]] || fail "cargo is missing: install Rust from https://rustup.rs"
    for program in chas-node-agent "$@"; do packages+=(--package "$program" --bin "$program"); done
    (cd "$REPOSITORY" && "${as[@]}" env "PATH=$(dirname "$cargo"):$PATH" "$cargo" build --profile "$PROFILE" ${FEATURES:+--features "$FEATURES"} "${packages[@]}")
    local target
    target=$(cd "$REPOSITORY" && "${as[@]}" env "PATH=$(dirname "$cargo"):$PATH" "$cargo" metadata --format-version 1 --no-deps | jq -r .target_directory)
    AGENT=$target/${PROFILE/#dev/debug}/chas-node-agent
}

# alive NAME: whether the process that `launch NAME` started still runs.
alive() {
    local pid began now
    read -r pid began 2>/dev/null <"$NODE/$1.pid" || return 1
    now=$(cut -d' ' -f3,22 "/proc/$pid/stat" 2>/dev/null) && [[ $now == *" $began" && $now != Z* ]]
}

# launch NAME READY COMMAND...: starts a command in the background unless it runs, and waits until the shell code READY
# succeeds.
launch() {
    local name=$1 ready=$2 attempt
    shift 2
    if alive "$name"; then
        say "$name runs already"
    else
        # The lock of `alone` is this script's, not the program's.
        setsid "$@" >>"$NODE/$name.log" 2>&1 </dev/null 9>&- &
        local pid=$!
        # If the process has ended already, `alive` notices.
        echo "$pid $(cut -d' ' -f22 "/proc/$pid/stat" 2>/dev/null)" >"$NODE/$name.pid"
    fi
    for attempt in {1..300}; do
        eval "$ready" >/dev/null 2>&1 && return
        alive "$name" || fail "$name ended during its start: read $NODE/$name.log"
        sleep 0.1
    done
    fail "$name gave no answer within ${attempt}00 ms: read $NODE/$name.log"
}

# owns NAME PORT: whether the process that `launch NAME` started listens on the port. Another clone's answers there too.
owns() {
    local pid
    alive "$1" && read -r pid _ <"$NODE/$1.pid" && [[ $(ss -Hltnp "sport = :$2") == *"pid=$pid,"* ]]
}

# stop NAME: terminates a process, and kills it after 10 s.
stop() {
    local pid attempt
    alive "$1" || return 0
    read -r pid _ <"$NODE/$1.pid"
    kill "$pid" 2>/dev/null || true
    for attempt in {1..100}; do
        alive "$1" || return 0
        sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null || true
}

# alone COMMAND...: runs a command while no other node of this host does so: two that begin at once choose different ports and
# subnets, since each has taken its own before the other looks. What the command sets stays set. The lock is on a directory that is
# there, and leaves no file.
alone() {
    exec 9</run
    flock --timeout 120 9 || fail "another quickstart of this host has been choosing its ports for two minutes: end it, or wait (lslocks --output PID,COMMAND,PATH | grep '/run$')"
    "$@"
    exec 9>&-
}

# is_free PORT: whether nobody listens on a TCP port of this host, nor answers there by a rule of the firewall.
is_free() {
    local listening
    listening=$(ss -Hltn "sport = :$1")
    [[ -z $listening ]] && ! timeout 1 bash -c "exec 3<>/dev/tcp/127.0.0.1/$1" 2>/dev/null
}

# choose_port NAME FIRST: a free TCP port from FIRST up; the same one as long as the node exists. The process NAME may have
# it already. As long as nothing is configured by it, one that is lost to another program is chosen anew.
choose_port() {
    local file=$NODE/$1.port port=$2
    if [[ -s $file ]]; then
        port=$(cat "$file")
        if owns "$1" "$port" || is_free "$port"; then
            echo "$port"
            return
        fi
        [[ ! -s $NODE/node-agent.yaml ]] ||
            fail "Port $port, which this node's $1 had before, is another program's now (ss -ltnp; nft list ruleset): end that one, or remove the node with --down and start again."
        port=$2
    fi
    until is_free "$port"; do
        port=$((port + 1))
        [[ $port -lt $(($2 + 1000)) ]] || fail "No port of this host is free from $2 to $port: ss -ltnp"
    done
    echo "$port" | tee "$file"
}

# free_subnet CANDIDATE/24...: prints the first that no interface and no route of this host has. A route to a larger network
# behind a gateway does no harm. The whole list is read: a reader that ends early would end `ip` with an error.
free_subnet() {
    ip -4 route show table all | awk -v own="$BRIDGE" -v candidates="$*" '
        function number(address, part) {
            split(address, part, ".")
            return ((part[1] * 256 + part[2]) * 256 + part[3]) * 256 + part[4]
        }
        {
            at = $1 ~ /^(unicast|local|blackhole|unreachable|prohibit)$/ ? 2 : 1
            if ($1 ~ /^(broadcast|multicast|anycast|throw|nat|default)$/ || $at == "default") next
            is_own = behind = 0
            for (i = at; i < NF; i++) {
                if ($i == "dev" && $(i + 1) == own) is_own = 1
                if ($i == "via") behind = 1
            }
            if (is_own) next
            length_of = split($at, part, "/") == 2 ? part[2] : 32
            if (length_of == 0 || (length_of < 24 && behind)) next
            prefix[++routes] = length_of
            network[routes] = number(part[1])
        }
        END {
            count = split(candidates, candidate, " ")
            for (c = 1; c <= count; c++) {
                split(candidate[c], part, "/")
                first = number(part[1])
                for (r = 1; r <= routes; r++) {
                    block = 2 ^ (32 - (prefix[r] < 24 ? prefix[r] : 24))
                    if (int(first / block) == int(network[r] / block)) break
                }
                if (r > routes) { print candidate[c]; exit }
            }
        }'
}

# choose_subnet: a /24 that nobody else on this host has; the same one as long as the node exists.
choose_subnet() {
    local subnet
    if [[ -s $NODE/subnet ]]; then
        subnet=$(free_subnet "$(cat "$NODE/subnet")")
        [[ -n $subnet ]] ||
            fail "The subnet $(cat "$NODE/subnet"), which this node had before, is another's now (ip route show table all): remove that one, or remove the node with --down and start again."
    else
        subnet=$(free_subnet 10.231.{0..255}.0/24 172.30.{0..255}.0/24 192.168.{0..255}.0/24)
        [[ -n $subnet ]] || fail "No subnet is free on this host: ip route show table all"
        echo "$subnet" >"$NODE/subnet"
    fi
    echo "$subnet"
}

start_containerd() {
    mkdir -p "$NODE/containerd"
    cat >"$NODE/containerd/config.toml" <<END
version = 2
root = "$NODE/containerd/root"
state = "$NODE/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
    "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
address = "$SOCKET"
[ttrpc]
address = "$SOCKET.ttrpc"
END
    launch containerd "ctr --address $SOCKET version" containerd --config "$NODE/containerd/config.toml"
}

start_registry() {
    local port
    port=$(choose_port registry 5000)
    REGISTRY=127.0.0.1:$port
    cat >"$NODE/registry.yml" <<END
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $NODE/registry}}
http: {addr: "$REGISTRY", secret: local}
END
    launch registry "owns registry $port && curl -fs http://$REGISTRY/v2/" docker-registry serve "$NODE/registry.yml"
}

# push_nginx [PORT...]: builds an nginx image and pushes it as nginx:latest. It listens on port 80, or with
# `-c /etc/nginx/PORT.conf` on one of these ports.
push_nginx() {
    local port
    if curl -fs -o /dev/null "http://$REGISTRY/v2/nginx/manifests/latest" -H 'Accept: application/vnd.oci.image.manifest.v1+json'; then
        say "the registry has nginx:latest already"
        return
    fi
    rm -rf "$NODE/nginx"
    if ! "$REPOSITORY/contrib/nginx-rootfs" "$NODE/nginx" >"$NODE/nginx.log" 2>&1; then
        apt-get update -q >>"$NODE/nginx.log" 2>&1
        rm -rf "$NODE/nginx"
        "$REPOSITORY/contrib/nginx-rootfs" "$NODE/nginx" >>"$NODE/nginx.log" 2>&1
    fi
    for port; do sed "s/listen 80;/listen $port;/; s|/run/nginx|&-$port|" "$NODE/nginx/etc/nginx/nginx.conf" >"$NODE/nginx/etc/nginx/$port.conf"; done
    say "$("$REPOSITORY/contrib/push-image" "$NODE/nginx" "$REGISTRY/nginx:latest" --port 80 -- nginx -g 'daemon off;')"
    rm -rf "$NODE/nginx"
}

# start_chas: starts the example of the CHaS API server, with the sets in $NODE/sets. Sets CHAS.
start_chas() {
    local port
    port=$(choose_port chas 8780)
    CHAS=http://127.0.0.1:$port
    mkdir -p "$NODE/sets"
    # A node without any set polls only every ten minutes.
    [[ -e $NODE/sets/quickstart.yaml ]] || printf '%s\n' "$EMPTY_SET" 'containers: []' >"$NODE/sets/quickstart.yaml"
    launch chas "owns chas $port && curl -fs $CHAS/livez" env "CHAS_JOIN_TOKEN=$(secret join-token)" "CHAS_ADMIN_TOKEN=$(secret admin-token)" \
        "$(dirname "$AGENT")/chas-api" --listen "127.0.0.1:$port" --state "$NODE/chas" --sets "$NODE/sets"
}

# secret NAME: prints a token, which is created once.
secret() {
    [[ -s $NODE/$1 ]] || (umask 077 && head -c 24 /dev/urandom | base64 | tr -d '\n/+=' >"$NODE/$1")
    cat "$NODE/$1"
}

# configure: writes the agent's configuration, unless it is there: it may have been changed since.
configure() {
    local port subnet first
    if [[ -s $NODE/node-agent.yaml ]]; then
        say "its configuration is as you left it: $NODE/node-agent.yaml"
        return
    fi
    port=$(choose_port agent 9090)
    # The agent itself passes over ports that others have, now or later.
    [[ -s $NODE/published.port ]] || echo 8080 >"$NODE/published.port"
    first=$(cat "$NODE/published.port")
    subnet=$(choose_subnet)
    cat >"$NODE/node-agent.yaml" <<END
api:
  port: $port
  listen: 127.0.0.1
  token_file: $NODE/token${CHAS:+
  chas_url: $CHAS
chas:
  token_file: $NODE/join-token}
node:
  id: quickstart
containerd:
  socket: $SOCKET
  namespace: $NAMESPACE
state:
  dir: $NODE/state
  run_dir: $NODE/run
network:
  bridge: $BRIDGE
  subnet: $subnet
  port_range: $first-$((first + 99))
registry:
  insecure: [$REGISTRY]
END
}

# start_agent: starts the agent on its state, and restarts one whose program or configuration is newer. Sets API, and makes
# the client of this node, $NODE/bin/chas.
start_agent() {
    local port checked
    secret token >/dev/null
    configure
    checked=$("$AGENT" --config "$NODE/node-agent.yaml" config check 2>&1) || fail "$checked"
    port=$(awk '$1 == "api.port" {print $2}' <<<"$checked")
    API=http://127.0.0.1:$port
    mkdir -p "$NODE/bin"
    # shellcheck disable=SC2016 # the arguments of whoever calls it
    printf '#!/bin/sh\n# The client of this node: docker'"'"'s words, such as ps, logs, exec.\nCHAS_CONFIG=%q exec %q "$@"\n' \
        "$NODE/node-agent.yaml" "$AGENT" >"$NODE/bin/chas"
    chmod +x "$NODE/bin/chas"
    if alive agent && [[ $AGENT -nt $NODE/agent.pid || $NODE/node-agent.yaml -nt $NODE/agent.pid ]]; then
        say "the agent or its configuration is newer: replacing the one that runs; its containers keep running"
        stop agent
    fi
    if ! alive agent; then
        # What it was given once, another program may have now.
        [[ $(awk '$1 == "network.subnet" {print $2}' <<<"$checked") != "$(cat "$NODE/subnet" 2>/dev/null)" ]] || choose_subnet >/dev/null
        is_free "$port" || fail "Port $port of the agent's configuration is another program's (ss -ltnp; nft list ruleset): end that one, or write another api.port into $NODE/node-agent.yaml."
    fi
    launch agent "owns agent $port && curl -fs $API/readyz" "$AGENT" --config "$NODE/node-agent.yaml"
}

# api METHOD PATH [BODY]: calls the agent's API and prints the answer. Fails for an error status.
api() {
    local arguments=(-sS -X "$1" -H "Authorization: Bearer $(cat "$NODE/token")" -w '\n%{http_code}') answer body
    [[ $# -lt 3 ]] || arguments+=(-H 'Content-Type: application/json' --data "$3")
    answer=$(curl "${arguments[@]}" "$API$2")
    body=${answer%$'\n'*}
    printf '%s\n' "${body%$'\n'}"
    [[ ${answer##*$'\n'} == 2?? ]]
}

# node_down [MORE...]: removes the node, however much of it exists, with more lines for `sweep`. Prints what it found.
node_down() {
    [[ -e $NODE ]] || return 0
    local name
    for name in agent chas containerd registry; do stop "$name"; done
    printf '%s\n' "namespace $NAMESPACE" "namespace $NAMESPACE-ctr" "bridge $BRIDGE" "$@" | sh "$REPOSITORY/contrib/sweep" "$NODE"
    [[ ! -e $NODE ]] || fail "$NODE cannot be removed: look for mounts and processes in it: grep $NODE /proc/mounts; fuser -vm $NODE"
}
