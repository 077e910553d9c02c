// Tries calls that a container must not be able to make, and some that it needs; a line for each, with what came of it.
// `wide` are calls of 64 bit, `narrow` those of 32 bit x86, which a program of 64 bit can make as well.

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static void say(const char *what, long answer) {
    if (answer >= 0) {
        close(answer);
        printf("%s: open\n", what);
    } else {
        printf("%s: %ld\n", what, -answer);
    }
}

static long wide(unsigned long family, unsigned long kind, unsigned long protocol) {
    long answer = syscall(SYS_socket, family, kind, protocol);
    return answer < 0 ? -errno : answer;
}

#ifdef __x86_64__
static long narrow(long number, long a, long b, long c) {
    int answer;
    __asm__ volatile("int $0x80" : "=a"(answer) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
    return answer;
}

static void all_narrow(void) {
    int *low = mmap((void *)0x10000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    say("narrow alg", narrow(359, 38, 5, 0));
    say("narrow vsock", narrow(359, 40, 1, 0));
    say("narrow inet", narrow(359, 2, 1, 0));
    low[0] = 38, low[1] = 5, low[2] = 0;
    say("socketcall alg", narrow(102, 1, (long)low, 0));
    low[0] = 40, low[1] = 1;
    say("socketcall vsock", narrow(102, 1, (long)low, 0));
    low[0] = 2, low[1] = 1;
    say("socketcall inet", narrow(102, 1, (long)low, 0));
}
#else
static void all_narrow(void) {}
#endif

int main(void) {
    say("alg", wide(38, 5, 0));
    say("vsock", wide(40, 1, 0));
    // The kernel reads 32 bits of a family, a filter all 64.
    say("alg with a high bit", wide(0x100000026UL, 5, 0));
    say("vsock with a high bit", wide(0x100000028UL, 1, 0));
    say("inet with a high bit", wide(0x100000002UL, 1, 0));
    say("inet", wide(2, 1, 0));
    say("inet6", wide(10, 1, 0));
    say("unix", wide(1, 1, 0));
    say("netlink", wide(16, 3, 0));
    // Of iputils and Alpine: it needs no capability where the sysctl ping_group_range has its group.
    say("ping", wide(2, 2, 1));
    say("raw", wide(2, 3, 1));
    say("packet", wide(17, 3, 0));
    all_narrow();
    int tunnels = open("/tunnels", O_RDWR);
    say("tun", tunnels < 0 ? -errno : tunnels);
    return 0;
}
