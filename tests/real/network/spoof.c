// spoof arp|mac|ip ADDRESS GATEWAY PORT: sends one frame from eth0 as if it were the neighbour at ADDRESS. arp: claims the address
// for its own hardware address; mac: sends with the neighbour's hardware address (0a:58 and the address); ip: a UDP packet from the
// address to the gateway.

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static void hardware_address(unsigned char *mac, const void *address) {
    mac[0] = 0x0a;
    mac[1] = 0x58;
    memcpy(mac + 2, address, 4);
}

int main(int count, char **arguments) {
    if (count != 5) return 2;
    int is_ip = !strcmp(arguments[1], "ip"), is_mac = !strcmp(arguments[1], "mac");
    in_addr_t address = inet_addr(arguments[2]), gateway = inet_addr(arguments[3]);
    unsigned short port = htons(atoi(arguments[4]));
    int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    struct ifreq request = {0};
    strcpy(request.ifr_name, "eth0");
    if (fd < 0 || ioctl(fd, SIOCGIFINDEX, &request)) return 2;
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = request.ifr_ifindex};
    if (ioctl(fd, SIOCGIFHWADDR, &request)) return 2;
    unsigned char own[6], frame[60] = {0};
    memcpy(own, request.ifr_hwaddr.sa_data, 6);
    if (is_mac) hardware_address(own, &address);
    memset(frame, 0xff, 6);
    memcpy(frame + 6, own, 6);
    frame[12] = 8;
    if (is_ip) {
        hardware_address(frame, &gateway);
        unsigned char header[20] = {0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17};
        memcpy(header + 12, &address, 4);
        memcpy(header + 16, &gateway, 4);
        unsigned sum = 0;
        for (int at = 0; at < 20; at += 2) sum += header[at] << 8 | header[at + 1];
        while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
        header[10] = ~sum >> 8, header[11] = ~sum;
        memcpy(frame + 14, header, 20);
        memcpy(frame + 34, &port, 2);
        memcpy(frame + 36, &port, 2);
        frame[39] = 9;
        frame[42] = 'x';
    } else {
        // An answer that nobody asked for, to everybody.
        unsigned char head[] = {8, 6, 0, 1, 8, 0, 6, 4, 0, 2};
        memcpy(frame + 12, head, sizeof head);
        memcpy(frame + 22, own, 6);
        memcpy(frame + 28, &address, 4);
        memset(frame + 32, 0xff, 6);
        memcpy(frame + 38, &address, 4);
    }
    return sendto(fd, frame, sizeof frame, 0, (struct sockaddr *)&to, sizeof to) == sizeof frame ? 0 : 1;
}
