// frame DESTINATION PORT TAGS: sends a TCP SYN in a raw Ethernet frame to the bridge, past all routes of the container, with so
// many VLAN tags of VLAN 0; waits a second for the answer, and says which came.

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static unsigned short sum(const void *bytes, int length, unsigned before) {
    const unsigned short *words = bytes;
    for (; length > 1; length -= 2) before += *words++;
    while (before >> 16) before = (before & 0xffff) + (before >> 16);
    return ~before;
}

int main(int count, char **words) {
    if (count != 4) return 2;
    int socket_ = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    struct ifreq link = {0};
    strcpy(link.ifr_name, "eth0");
    ioctl(socket_, SIOCGIFINDEX, &link);
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_ifindex = link.ifr_ifindex, .sll_protocol = htons(ETH_P_ALL)};
    ioctl(socket_, SIOCGIFHWADDR, &link);
    unsigned char own[6];
    memcpy(own, link.ifr_hwaddr.sa_data, 6);
    ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCGIFADDR, &link);
    unsigned from = ((struct sockaddr_in *)&link.ifr_addr)->sin_addr.s_addr, to = inet_addr(words[1]);
    bind(socket_, (void *)&at, sizeof at);

    // The bridge's hardware address follows its IPv4 address, the first of the subnet.
    unsigned char frame[64] = {0x0a, 0x58};
    unsigned gateway = (from & inet_addr("255.255.0.0")) | inet_addr("0.0.0.1");
    memcpy(frame + 2, &gateway, 4);
    memcpy(frame + 6, own, 6);
    int length = 12;
    for (int tags = atoi(words[3]); tags > 0; tags--, length += 4) frame[length] = 0x81;
    frame[length] = 8;
    unsigned char *ip = frame + length + 2, *tcp = ip + 20;
    ip[0] = 0x45, ip[3] = 40, ip[8] = 64, ip[9] = 6;
    memcpy(ip + 12, &from, 4);
    memcpy(ip + 16, &to, 4);
    *(unsigned short *)(ip + 10) = sum(ip, 20, 0);
    srand(time(0) ^ getpid());
    unsigned short port = htons(40000 + rand() % 20000), there = htons(atoi(words[2]));
    memcpy(tcp, &port, 2);
    memcpy(tcp + 2, &there, 2);
    tcp[4] = rand(), tcp[12] = 0x50, tcp[13] = 2, tcp[14] = 4;
    unsigned char pseudo[32] = {0};
    memcpy(pseudo, &from, 4);
    memcpy(pseudo + 4, &to, 4);
    pseudo[9] = 6, pseudo[11] = 20;
    memcpy(pseudo + 12, tcp, 20);
    *(unsigned short *)(tcp + 16) = sum(pseudo, 32, 0);

    struct timeval wait = {0, 100000};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    for (int round = 0; round < 10; round++) {
        if (round % 5 == 0) send(socket_, frame, length + 42, 0);
        unsigned char answer[2000];
        int got = recv(socket_, answer, sizeof answer, 0);
        if (got >= 54 && answer[12] == 8 && answer[23] == 6 && !memcmp(answer + 26, &to, 4) && !memcmp(answer + 36, &port, 2)) {
            printf("%s\n", (answer[47] & 0x12) == 0x12 ? "SYN-ACK" : "reset");
            return 0;
        }
    }
    printf("no answer\n");
    return 0;
}
