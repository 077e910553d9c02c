# shellcheck shell=bash
# Sourced: installs the Debian or Ubuntu packages of missing programs.

# install_missing LOG PROGRAM:PACKAGE[,PACKAGE]...: prints the command it runs; on failure, a sentence on stderr.
install_missing() {
    local log=$1 missing=() more pair
    shift
    for pair; do
        command -v "${pair%%:*}" >/dev/null && continue
        IFS=, read -ra more <<<"${pair#*:}"
        missing+=("${more[@]}")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    if ! command -v apt-get >/dev/null; then
        echo "This host has no apt-get: install the programs of these Debian packages yourself: ${missing[*]}" >&2
        return 1
    fi
    local install=(apt-get install -y -q --no-install-recommends "${missing[@]}")
    if [[ $EUID -ne 0 ]]; then
        echo "Packages are missing; run as root: ${install[*]}" >&2
        return 1
    fi
    echo "${install[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # The package lists of a fresh machine are empty or old.
    "${install[@]}" >"$log" 2>&1 || { apt-get update -q >>"$log" 2>&1 && "${install[@]}" >>"$log" 2>&1; } || return
    # Its package starts a registry on port 5000 of every address, which nobody asked for.
    if [[ " ${missing[*]} " == *" docker-registry "* && -d /run/systemd/system ]]; then
        systemctl disable --now docker-registry >>"$log" 2>&1 || true
    fi
}
