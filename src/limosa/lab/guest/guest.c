/* Process 1 of the guest: drivers, devices (also those plugged in later), the other programs, and their deaths. */
#include "guest.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { DISK = 1, DIRTIER, OTHER };

static struct {
    pid_t pid;
    int kind, slot;
} children[MAX_DISKS + MAX_DIRTIERS + 8];

/* --- programs --- */

static pid_t start(int kind, int slot, const char *name, const char *target) {
    pid_t pid = fork();
    if (pid > 0)
        for (size_t i = 0; i < sizeof children / sizeof children[0]; i++)
            if (!children[i].pid) {
                children[i].pid = pid, children[i].kind = kind, children[i].slot = slot;
                break;
            }
    if (pid) return pid;
    close_range(3, ~0U, 0); /* an agent's child that kept its virtio port would keep the agent from opening it anew */
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    switch (kind) {
        case DISK: run_records(slot);
        case DIRTIER: run_dirtier(slot);
        default:
            if (!strcmp(name, "heartbeat")) run_heartbeat(target);
            if (!strcmp(name, "vectors")) run_vectors();
            run_agent();
    }
}

pid_t start_dirtier(int first_slot, uint64_t mib, uint64_t rate) {
    for (int slot = first_slot; slot < MAX_DIRTIERS; slot++) {
        struct dirtier_state *d = &state->dirtiers[slot];
        uint64_t unused = 0;
        if (!atomic_compare_exchange_strong(&d->active, &unused, 1)) continue;
        d->mib = mib;
        d->rate = rate;
        d->stop = d->passes = d->errors = d->first_bad = d->checks_wanted = d->checks_done = 0;
        return start(DIRTIER, slot, NULL, NULL);
    }
    return -1;
}

static void start_records(const char *disk) {
    char value[32];
    const char *asked = parameter("records");
    if (!asked || !strcmp(asked, "off") || !is_disk(disk)) return;
    if (read_text(value, sizeof value, "/sys/block/%s/ro", disk) < 1 || value[0] != '0') return;
    if (read_text(value, sizeof value, "/sys/block/%s/size", disk) < 1 || value[0] == '0') return;
    for (int slot = 0; slot < MAX_DISKS; slot++) {
        struct disk_state *mine = &state->disks[slot];
        if (mine->active && !strcmp(mine->name, disk)) return;
        if (mine->active || (mine->name[0] && strcmp(mine->name, disk))) continue;
        memset(mine, 0, sizeof *mine);
        snprintf(mine->name, sizeof mine->name, "%s", disk);
        mine->active = 1;
        start(DISK, slot, NULL, NULL);
        return;
    }
}

static void reap(void) {
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (WIFEXITED(status) && !WEXITSTATUS(status)) status = 0;
        if (status) {
            state->deaths++;
            console("limosa-guest: a program ended with status %x", (unsigned)status);
        }
        for (size_t i = 0; i < sizeof children / sizeof children[0]; i++)
            if (children[i].pid == pid) children[i].pid = 0;
    }
}

/* --- devices --- */

static void address_of(unsigned index, char *into, size_t size) { /* limosa.ip=… is eth0's, limosa.ip1=… eth1's */
    char name[16];
    snprintf(name, sizeof name, index ? "ip%u" : "ip", index);
    const char *value = parameter(name);
    snprintf(into, size, "%s", value ? value : "");
}

static void bring_up(const char *nic) {
    unsigned index, bits;
    char value[64], address[64];
    if (sscanf(nic, "eth%u", &index) != 1) return;
    address_of(index, value, sizeof value);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)&request.ifr_addr;
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", nic);
    if (sscanf(value, "%63[0-9.]/%u", address, &bits) == 2 && bits <= 32) {
        in->sin_family = AF_INET;
        inet_pton(AF_INET, address, &in->sin_addr);
        if (ioctl(fd, SIOCSIFADDR, &request)) console("limosa-guest: %s: %s", nic, strerror(errno));
        in->sin_addr.s_addr = htonl(bits ? ~0u << (32 - bits) : 0);
        ioctl(fd, SIOCSIFNETMASK, &request);
    }
    memset(&request.ifr_addr, 0, sizeof request.ifr_addr);
    if (!ioctl(fd, SIOCGIFFLAGS, &request)) {
        request.ifr_flags |= IFF_UP;
        if (ioctl(fd, SIOCSIFFLAGS, &request)) console("limosa-guest: %s: %s", nic, strerror(errno));
    }
    close(fd);
}

static void for_each(const char *directory, void (*act)(const char *)) {
    DIR *entries = opendir(directory);
    for (struct dirent *entry; entries && (entry = readdir(entries));)
        if (entry->d_name[0] != '.') act(entry->d_name);
    if (entries) closedir(entries);
}

static const char *field(const char *event, size_t size, const char *name) {
    size_t length = strlen(name);
    for (const char *at = event; at < event + size; at += strlen(at) + 1)
        if (!strncmp(at, name, length) && at[length] == '=') return at + length + 1;
    return "";
}

static void on_event(const char *event, size_t size) {
    const char *modalias = field(event, size, "MODALIAS"), *subsystem = field(event, size, "SUBSYSTEM");
    const char *path = field(event, size, "DEVPATH"), *name = strrchr(path, '/');
    bool added = !strcmp(field(event, size, "ACTION"), "add");
    if (!name++) return;
    if (added && *modalias) load_drivers_for(modalias);
    if (added && !strcmp(subsystem, "net")) bring_up(name);
    if (added && !strcmp(subsystem, "cpu")) write_text("1", "/sys%s/online", path);
    if (added && !strcmp(subsystem, "memory")) write_text("online_movable", "/sys%s/state", path);
    /* A disk may get its size only after it was added (nvme, virtio-scsi): then a change follows. */
    if (!strcmp(subsystem, "block") && !strcmp(field(event, size, "DEVTYPE"), "disk") && strcmp(field(event, size, "ACTION"), "remove"))
        start_records(name);
}

static int listen_for_devices(void) {
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT), size = 4 << 20;
    struct sockaddr_nl here = {.nl_family = AF_NETLINK, .nl_groups = 1};
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    if (bind(fd, (struct sockaddr *)&here, sizeof here)) console("limosa-guest: no device events: %s", strerror(errno));
    return fd;
}

static void drain_events(int fd) {
    static char event[16384];
    for (ssize_t size; (size = recv(fd, event, sizeof event - 1, MSG_DONTWAIT)) > 0;) {
        event[size] = 0;
        on_event(event, (size_t)size);
    }
}

/* --- life --- */

static void start_what_was_asked(void) {
    uint64_t mib = number(parameter("pages"), 0);
    if (mib) start_dirtier(0, mib, number(parameter("pages-rate"), 16));
    const char *target = parameter("heartbeat");
    if (target) start(OTHER, 0, "heartbeat", target);
    if (number(parameter("vectors"), 0)) start(OTHER, 0, "vectors", NULL);
    start(OTHER, 0, "agent", NULL);
}

static int watch_children(void) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

int main(void) {
    /* All of it at once, so that none lies in memory that is plugged in later. */
    state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    state->records_hz = number(parameter("records-hz"), 20);
    struct pollfd sources[] = {{.fd = listen_for_devices(), .events = POLLIN}, {.fd = watch_children(), .events = POLLIN}};
    /* Plugged memory is for programs, not for the kernel: so it can be unplugged, and under TCG the kernel lives longer
     * (docs/qemu-notes.md, RAM under TCG). */
    write_text("online_movable", "/sys/devices/system/memory/auto_online_blocks");
    load_drivers_for_all_devices();
    for_each("/sys/class/net", bring_up);
    for_each("/sys/block", start_records);
    drain_events(sources[0].fd);
    start_what_was_asked();
    console("limosa-guest ready %llu ms", (unsigned long long)(now_ns(CLOCK_BOOTTIME) / 1000000));
    for (;;) {
        poll(sources, 2, -1);
        drain_events(sources[0].fd);
        struct signalfd_siginfo unused;
        while (read(sources[1].fd, &unused, sizeof unused) > 0) {}
        reap();
    }
}
