//! System calls that a container may make: an allow-list with docker's meaning.
//!
//! What is not listed answers EPERM. runc itself answers ENOSYS for calls newer than every call
//! listed here, so that a C library which tries a new call first falls back to the old one.

use serde_json::{Value, json};

use super::host::Machine;

/// Calls that every program may make, whatever its arguments. Absent on purpose are those that
/// change the host (mounts, modules, clocks, swap, reboot, accounting, keyrings), that make
/// namespaces (`unshare`, `setns`), that widen the kernel's attack surface for little (`bpf`,
/// `io_uring_*`, `userfaultfd`, `perf_event_open`), and the obsolete ones.
const ALLOWED: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime
    clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
    close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat
    faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat
    fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs
    fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
    getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit
    get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32 getxattr
    getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents
    io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr
    listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier
    memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr
    mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal
    msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open
    openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll
    ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6
    pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir rseq
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max
    sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity
    sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop
    semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid
    setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
    setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address setuid
    setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn
    socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs
    sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
    timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate
    truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice
    wait4 waitid waitpid write writev";

/// Flags of `clone` that make a namespace: `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`,
/// `NEWUSER`, `NEWPID`, `NEWNET`.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;

/// Values that `personality` may be set to: Linux, 32 bit, with UNAME26, both, and the question for
/// the present one.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];

/// Bits of a socket's family that the kernel reads. The filter sees all 64 of the register: a
/// family that is compared as a whole is another number with a bit set above these, and the kernel
/// takes it for the same.
const FAMILY_BITS: u64 = 0xFFFF_FFFF;
/// Families of sockets, as the first of a run and its length, a power of two: those below 48, all
/// that Linux has, without `AF_ALG` (38), the kernel's cryptography on pages that containers share,
/// and `AF_VSOCK` (40), virtual machine sockets, which reach past the network namespace.
const FAMILIES: [(u64, u64); 7] = [
    (0, 32),
    (32, 4),
    (36, 2),
    (39, 1),
    (41, 1),
    (42, 2),
    (44, 4),
];

const ENOSYS: u32 = 38;
const EPERM: u32 = 1;

/// Calls that a container may make besides, for each capability that it has.
const OF_CAPABILITIES: [(&str, &[&str]); 14] = [
    ("CAP_BPF", &["bpf"]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_PERFMON", &["perf_event_open"]),
    (SYS_ADMIN, &OF_SYS_ADMIN),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYSLOG", &["syslog"]),
    (
        "CAP_SYS_MODULE",
        &["delete_module", "init_module", "finit_module"],
    ),
    (
        "CAP_SYS_NICE",
        &[
            "get_mempolicy",
            "mbind",
            "set_mempolicy",
            "set_mempolicy_home_node",
        ],
    ),
    ("CAP_SYS_PACCT", &["acct"]),
    (
        "CAP_SYS_PTRACE",
        &[
            "kcmp",
            "pidfd_getfd",
            "process_madvise",
            "process_vm_readv",
            "process_vm_writev",
            "ptrace",
        ],
    ),
    ("CAP_SYS_RAWIO", &["iopl", "ioperm"]),
    (
        "CAP_SYS_TIME",
        &["settimeofday", "stime", "clock_settime", "clock_settime64"],
    ),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
];
const SYS_ADMIN: &str = "CAP_SYS_ADMIN";
const OF_SYS_ADMIN: [&str; 26] = [
    "bpf",
    "clone",
    "clone3",
    "fanotify_init",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "lookup_dcookie",
    "lsm_get_self_attr",
    "lsm_list_modules",
    "lsm_set_self_attr",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "perf_event_open",
    "quotactl",
    "quotactl_fd",
    "setdomainname",
    "sethostname",
    "setns",
    "syslog",
    "umount",
    "umount2",
    "unshare",
];

/// Seccomp profile as OCI's `linux.seccomp`, for a container with these capabilities; `socketcall`
/// says whether that call may be made.
pub(crate) fn profile(machine: Machine, capabilities: &[String], socketcall: bool) -> Value {
    let has = |capability: &str| capabilities.iter().any(|name| name == capability);
    let mut calls = vec![
        socketcall_rule(socketcall),
        allow(&ALLOWED.split_ascii_whitespace().collect::<Vec<_>>()),
    ];
    if !has(SYS_ADMIN) {
        calls.extend([
            json!({ "names": ["clone"], "action": "SCMP_ACT_ALLOW",
                "args": [{ "index": 0, "value": CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }] }),
            // Its flags lie in memory, where a filter cannot look. ENOSYS makes every C library use
            // `clone` instead.
            json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }),
        ]);
    }
    calls.extend(FAMILIES.map(|(first, count)| {
        json!({ "names": ["socket"], "action": "SCMP_ACT_ALLOW",
                "args": [{ "index": 0, "value": FAMILY_BITS & !(count - 1), "valueTwo": first, "op": "SCMP_CMP_MASKED_EQ" }] })
    }));
    calls.extend(PERSONALITIES.map(|value| {
        json!({ "names": ["personality"], "action": "SCMP_ACT_ALLOW",
                "args": [{ "index": 0, "value": value, "op": "SCMP_CMP_EQ" }] })
    }));
    calls.push(match machine {
        Machine::X86_64 => allow(&["arch_prctl", "modify_ldt"]),
        Machine::Aarch64 => allow(&[
            "arm_fadvise64_64",
            "arm_sync_file_range",
            "sync_file_range2",
            "breakpoint",
            "cacheflush",
            "set_tls",
        ]),
    });
    let of_capabilities = OF_CAPABILITIES.iter().filter(|(name, _)| has(name));
    calls.extend(of_capabilities.map(|(_, names)| allow(names)));
    let architectures: &[&str] = match machine {
        Machine::X86_64 => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        Machine::Aarch64 => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    };
    json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": EPERM, "architectures": architectures, "syscalls": calls })
}

/// Rule for the call of 32 bit x86 that makes sockets of every family: its arguments lie in memory,
/// so all of it is allowed or none.
///
/// It has to be refused by a rule: libseccomp allows it for each rule that allows `socket`. And
/// with ENOSYS, since runc drops a rule that does what the default does; musl then makes the direct
/// calls, which 32 bit x86 has since Linux 4.3.
fn socketcall_rule(allowed: bool) -> Value {
    if allowed {
        return allow(&["socketcall"]);
    }
    json!({ "names": ["socketcall"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS })
}

fn allow(names: &[&str]) -> Value {
    json!({ "names": names, "action": "SCMP_ACT_ALLOW" })
}

#[cfg(test)]
mod tests;
