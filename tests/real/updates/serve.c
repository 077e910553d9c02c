/* A web server that keeps its connections, and a UDP echo, both on port 80. On SIGTERM it answers what is asked, says
 * that it closes the connection, and ends once none is left; one that asks nothing for half a second is closed. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS 1000
#define IDLE_MS 500

static volatile sig_atomic_t ending;

static void end(int signal) {
    (void)signal;
    ending = 1;
}

struct connection {
    char text[2048];
    size_t length;
    long asked_ms;
};

static struct pollfd polled[CONNECTIONS + 2];
static struct connection connections[CONNECTIONS + 2];
static nfds_t count = 2;

static long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int listening(int type) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(80)};
    int made = socket(AF_INET, type | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(made, (struct sockaddr *)&address, sizeof address) || (type == SOCK_STREAM && listen(made, 512))) {
        perror("port 80");
        exit(1);
    }
    return made;
}

/* Answers what was asked in full; whether the connection stays. */
static int serve(nfds_t at, const char *version) {
    struct connection *of = &connections[at];
    ssize_t got = read(polled[at].fd, of->text + of->length, sizeof of->text - of->length - 1);
    if (got <= 0) return got < 0 && (errno == EAGAIN || errno == EINTR);
    of->length += (size_t)got;
    of->text[of->length] = 0;
    if (!strstr(of->text, "\r\n\r\n")) return of->length < sizeof of->text - 1;
    int closes = ending || strstr(of->text, "Connection: close") != NULL;
    char body[64], answer[256];
    int length = snprintf(body, sizeof body, "hello %s\n", version);
    int all = snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s", length,
                       closes ? "Connection: close\r\n" : "", body);
    of->length = 0;
    of->asked_ms = now_ms();
    return write(polled[at].fd, answer, (size_t)all) == all && !closes;
}

int main(void) {
    const char *version = getenv("VERSION") ? getenv("VERSION") : "";
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    polled[0] = (struct pollfd){.fd = listening(SOCK_STREAM), .events = POLLIN};
    polled[1] = (struct pollfd){.fd = listening(SOCK_DGRAM), .events = POLLIN};
    for (;;) {
        poll(polled, count, 50);
        for (int made; count < CONNECTIONS && (made = accept4(polled[0].fd, NULL, NULL, SOCK_NONBLOCK)) >= 0; count++) {
            polled[count] = (struct pollfd){.fd = made, .events = POLLIN};
            connections[count] = (struct connection){.asked_ms = now_ms()};
        }
        char packet[2048];
        struct sockaddr_in from;
        socklen_t size = sizeof from;
        for (ssize_t got; (got = recvfrom(polled[1].fd, packet, sizeof packet, 0, (struct sockaddr *)&from, &size)) >= 0; size = sizeof from)
            sendto(polled[1].fd, packet, (size_t)got, 0, (struct sockaddr *)&from, size);
        for (nfds_t at = 2; at < count; at++) {
            int stays = !(polled[at].revents & POLLIN) || serve(at, version);
            if (polled[at].revents & (POLLERR | POLLNVAL)) stays = 0;
            if (ending && now_ms() - connections[at].asked_ms > IDLE_MS) stays = 0;
            polled[at].revents = 0;
            if (stays) continue;
            close(polled[at].fd);
            count--;
            polled[at] = polled[count];
            connections[at] = connections[count];
            at--;
        }
        if (ending && count == 2) return 0;
    }
}
