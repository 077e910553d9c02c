//! Texts below the help of orders: examples, and exit codes.

/// Examples, and in what this differs from docker.
pub(super) const RUN: &str = "Examples:\n  \
    chas-node-agent run -d --name web -p 8080:80 nginx:1.27\n  \
    chas-node-agent run -d --name db -v data:/var/lib/postgresql/data -e POSTGRES_PASSWORD_FILE=/run/secrets/pw postgres:17\n  \
    chas-node-agent run --rm --name once alpine:3 echo hello\n  \
    chas-node-agent run -it --rm busybox sh\n  \
    echo 'echo hi' | chas-node-agent run -i --rm busybox sh\n\n\
    With -d the container is kept running, also after a reboot, unless --restart says otherwise; without -d it runs \
    once,\nwhat it prints is shown, and ^C stops it. --dry-run shows the deploy body, to be kept in a file.\n\n\
    With -i, -t or both the program has your input and terminal, and the container ends with it. That needs the role \
    exec.\nA client that is killed ends both, and leaves a --rm container that has ended: `ps` shows it, `rm` removes it.\n\n\
    Exit codes: with -d 0 once it runs, 125 if it cannot; without -d that of the container, or 125 where it could not be run.";

/// Examples and exit codes.
pub(super) const EXEC: &str = "Examples:\n  chas-node-agent exec web nginx -t\n  \
    chas-node-agent exec -it web sh\n  chas-node-agent exec -i db psql < dump.sql\n\n\
    Exit codes: the program's; 125 where it could not be run.";

/// When it is needed, and the exit codes.
pub(super) const CONFIRM: &str = "\
A set from CHaS that leaves out more than two containers and more than 30 % of those that run
for CHaS, or that has another epoch (as after a restore of its database), removes nothing until
it is confirmed. This command asks the agent which containers await a confirmation, shows them,
and confirms their removal.

Exit codes: 0 confirmed, or nothing to confirm; 3 with --list, something awaits a confirmation;
1 the agent refuses; 2 no agent answers; 64 invalid command line.";
