/* Answers commands, one a line, with one line of JSON: over TCP port 7, a virtio port named limosa.0, and the serial console.
 *
 * A command may start with a tag, `@` and a word; its answer then starts with the same. Serial lines keep what one client
 * asked and no longer waited for; by its tag the next client knows its own answer.
 */
#include "guest.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { PORT = 7 };

#define U(x) ((unsigned long long)(x))

static void put_string(FILE *out, const char *text) {
    fputc('"', out);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') fprintf(out, "\\%c", c);
        else if (c < ' ' || c > '~') fprintf(out, "\\u%04x", c);
        else fputc(c, out);
    }
    fputc('"', out);
}

static void put_field(FILE *out, const char *name, const char *text) {
    fprintf(out, "\"%s\":", name);
    put_string(out, text);
}

static void put_file(FILE *out, const char *name, const char *path) {
    char text[256];
    read_text(text, sizeof text, "%s", path);
    put_field(out, name, text);
}

static void put_error(FILE *out, const char *what) {
    fputc('{', out);
    put_field(out, "error", what);
    fputs("}\n", out);
}

static void put_dirtiers(FILE *out) {
    fputs("\"dirtiers\":[", out);
    bool first = true;
    for (int i = 0; i < MAX_DIRTIERS; i++) {
        struct dirtier_state *d = &state->dirtiers[i];
        if (!d->active) continue;
        fprintf(out, "%s{\"mib\":%llu,\"rate\":%llu,\"passes\":%llu,\"errors\":%llu,\"first_bad\":%llu}", first ? "" : ",", U(d->mib),
                U(d->rate), U(d->passes), U(d->errors), U(d->first_bad));
        first = false;
    }
    fputc(']', out);
}

static const struct disk_state *records_on(const char *name) {
    static const struct disk_state none;
    for (int i = 0; i < MAX_DISKS; i++)
        if (!strcmp(state->disks[i].name, name)) return &state->disks[i];
    return &none;
}

static void put_disks(FILE *out) {
    DIR *blocks = opendir("/sys/block");
    bool first = true;
    fputs("\"disks\":[", out);
    for (struct dirent *entry; blocks && (entry = readdir(blocks));) {
        char sectors[32], serial[128], readonly[8];
        if (!is_disk(entry->d_name)) continue;
        read_text(sectors, sizeof sectors, "/sys/block/%s/size", entry->d_name);
        read_text(readonly, sizeof readonly, "/sys/block/%s/ro", entry->d_name);
        disk_serial(entry->d_name, serial, sizeof serial);
        const struct disk_state *disk = records_on(entry->d_name);
        fputs(first ? "{" : ",{", out);
        put_field(out, "name", entry->d_name);
        fputc(',', out);
        put_field(out, "serial", serial);
        fputc(',', out);
        put_field(out, "label", disk->label);
        fprintf(out, ",\"size\":%llu,\"readonly\":%s,\"recording\":%s,\"acknowledged\":%llu,\"errors\":%llu,\"slowest_us\":%llu}",
                U(number(sectors, 0) * 512), readonly[0] == '1' ? "true" : "false", disk->active ? "true" : "false",
                U(disk->acknowledged), U(disk->errors), U(disk->slowest_us));
        first = false;
    }
    if (blocks) closedir(blocks);
    fputc(']', out);
}

static void put_addresses(FILE *out, const char *nic) {
    struct ifaddrs *all = NULL;
    bool first = true;
    fputs(",\"addresses\":[", out);
    if (!getifaddrs(&all)) {
        for (struct ifaddrs *a = all; a; a = a->ifa_next) {
            char text[INET_ADDRSTRLEN];
            if (!a->ifa_addr || a->ifa_addr->sa_family != AF_INET || strcmp(a->ifa_name, nic)) continue;
            inet_ntop(AF_INET, &((struct sockaddr_in *)a->ifa_addr)->sin_addr, text, sizeof text);
            fputs(first ? "" : ",", out);
            put_string(out, text);
            first = false;
        }
        freeifaddrs(all);
    }
    fputc(']', out);
}

static void put_nics(FILE *out) {
    struct if_nameindex *all = if_nameindex();
    bool first = true;
    fputs("\"nics\":[", out);
    for (struct if_nameindex *nic = all; nic && nic->if_name; nic++) {
        char mac[32], operstate[32];
        if (!strcmp(nic->if_name, "lo")) continue;
        read_text(mac, sizeof mac, "/sys/class/net/%s/address", nic->if_name);
        read_text(operstate, sizeof operstate, "/sys/class/net/%s/operstate", nic->if_name);
        fputs(first ? "{" : ",{", out);
        put_field(out, "name", nic->if_name);
        fputc(',', out);
        put_field(out, "mac", mac);
        fputc(',', out);
        put_field(out, "state", operstate);
        put_addresses(out, nic->if_name);
        fputc('}', out);
        first = false;
    }
    if_freenameindex(all);
    fputc(']', out);
}

static uint64_t memory_kib(void) { /* as the kernel manages it: grows when a DIMM comes online */
    char text[2048], *at;
    read_text(text, sizeof text, "/proc/meminfo");
    at = strstr(text, "MemTotal:");
    return at ? strtoull(at + 9, NULL, 10) : 0;
}

static void do_status(FILE *out, const char *unused) {
    (void)unused;
    fprintf(out, "{\"uptime_ns\":%llu,\"realtime_ns\":%llu,\"cpus\":%ld,\"memory_kib\":%llu,\"deaths\":%llu,\"beats\":%llu,\"late_us\":%llu,",
            U(now_ns(CLOCK_MONOTONIC)), U(now_ns(CLOCK_REALTIME)), sysconf(_SC_NPROCESSORS_ONLN), U(memory_kib()), U(state->deaths),
            U(state->beats), U(state->late_us));
    put_file(out, "boot_id", "/proc/sys/kernel/random/boot_id");
    fputc(',', out);
    put_file(out, "kernel", "/proc/sys/kernel/osrelease");
    fputc(',', out);
    put_file(out, "tainted", "/proc/sys/kernel/tainted");
    fputc(',', out);
    put_file(out, "clocksource", "/sys/devices/system/clocksource/clocksource0/current_clocksource");
    fprintf(out, ",\"records_hz\":%llu,\"vector_rounds\":%llu,\"vector_errors\":%llu,", U(state->records_hz),
            U(state->vector_rounds), U(state->vector_errors));
    put_dirtiers(out);
    fputc(',', out);
    put_disks(out);
    fputc(',', out);
    put_nics(out);
    fputs("}\n", out);
}

static void do_check_pages(FILE *out, const char *unused) {
    (void)unused;
    for (int i = 0; i < MAX_DIRTIERS; i++)
        if (state->dirtiers[i].active) state->dirtiers[i].checks_wanted++;
    for (int i = 0; i < MAX_DIRTIERS; i++) {
        struct dirtier_state *d = &state->dirtiers[i];
        /* The dirtier looks at its orders after each batch; there is no event between two processes to wait for. */
        while (d->active && d->checks_done < d->checks_wanted) usleep(2000);
    }
    fputc('{', out);
    put_dirtiers(out);
    fputs("}\n", out);
}

static void do_write_rate(FILE *out, const char *arguments) {
    state->records_hz = number(arguments, 0);
    fprintf(out, "{\"records_hz\":%llu}\n", U(state->records_hz));
}

static void do_dirty(FILE *out, const char *arguments) {
    unsigned long long mib = 0, rate = 0;
    if (sscanf(arguments, "%llu %llu", &mib, &rate) < 1 || !mib) return put_error(out, "usage: dirty MIB [MIB_PER_SECOND]");
    if (start_dirtier(1, mib, rate) < 0) return put_error(out, "too many dirtiers, or no process");
    fputs("{\"started\":true}\n", out);
}

static void do_dirty_stop(FILE *out, const char *unused) { /* all but the one that was there from the start */
    (void)unused;
    for (int i = 1; i < MAX_DIRTIERS; i++) state->dirtiers[i].stop = 1;
    for (int i = 1; i < MAX_DIRTIERS; i++)
        while (state->dirtiers[i].active) usleep(2000); /* it looks after each batch */
    fputs("{\"stopped\":true}\n", out);
}

static void do_dirty_rate(FILE *out, const char *arguments) {
    for (int i = 0; i < MAX_DIRTIERS; i++) state->dirtiers[i].rate = number(arguments, 0);
    fprintf(out, "{\"rate\":%llu}\n", U(number(arguments, 0)));
}

static void do_sha256(FILE *out, const char *arguments) {
    char disk[NAME_SIZE], path[64], digest[65];
    unsigned long long offset, length;
    uint64_t done;
    if (sscanf(arguments, "%31[a-z0-9] %llu %llu", disk, &offset, &length) != 3) return put_error(out, "usage: read-sha256 DISK OFFSET LENGTH");
    snprintf(path, sizeof path, "/dev/%s", disk);
    int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC); /* the disk itself, not what the guest remembers of it */
    if (fd < 0 || lseek(fd, (off_t)offset, SEEK_SET) < 0) {
        put_error(out, strerror(errno));
    } else {
        sha256_hex(fd, length, digest, &done);
        if (done < length) put_error(out, "the disk ended early, or a read failed");
        else fprintf(out, "{\"sha256\":\"%s\",\"length\":%llu}\n", digest, U(done));
    }
    if (fd >= 0) close(fd);
}

static void do_lscpu(FILE *out, const char *unused) {
    (void)unused;
    static char text[16384];
    char *line, *rest = text, *word;
    read_text(text, sizeof text, "/proc/cpuinfo");
    fputc('{', out);
    while ((line = strsep(&rest, "\n")) && *line) {
        if (!strncmp(line, "model name", 10)) {
            put_field(out, "model", strchr(line, ':') + 2);
            fputc(',', out);
        } else if (!strncmp(line, "flags", 5)) {
            char *flags = strchr(line, ':') + 1;
            fputs("\"flags\":[", out);
            for (bool first = true; (word = strsep(&flags, " "));)
                if (*word) {
                    fputs(first ? "" : ",", out);
                    put_string(out, word);
                    first = false;
                }
            fputs("]}\n", out);
            return;
        }
    }
    fputs("\"flags\":[]}\n", out);
}

static void do_shell(FILE *out, const char *arguments) { /* for whoever debugs a lab guest */
    static char text[65536];
    FILE *pipe = popen(arguments, "r");
    size_t length = pipe ? fread(text, 1, sizeof text - 1, pipe) : 0;
    text[length] = 0;
    int status = pipe ? pclose(pipe) : -1;
    fprintf(out, "{\"exit\":%d,", WIFEXITED(status) ? WEXITSTATUS(status) : 255);
    put_field(out, "output", text);
    fputs("}\n", out);
}

static void halt(FILE *out, int how) {
    fputs("{\"done\":true}\n", out);
    fflush(out);
    usleep(100000); /* lets the answer leave: TCP has no event for "the peer has read it" */
    sync();
    reboot(how);
}

static void do_poweroff(FILE *out, const char *unused) {
    (void)unused;
    halt(out, RB_POWER_OFF);
}

static void do_reboot(FILE *out, const char *unused) {
    (void)unused;
    halt(out, RB_AUTOBOOT);
}

static const struct {
    const char *name;
    void (*answer)(FILE *, const char *);
} commands[] = {
    {"status", do_status},         {"check-pages", do_check_pages}, {"write-rate", do_write_rate}, {"dirty", do_dirty},
    {"dirty-stop", do_dirty_stop}, {"dirty-rate", do_dirty_rate},   {"read-sha256", do_sha256},    {"lscpu", do_lscpu},
    {"sh", do_shell},              {"poweroff", do_poweroff},       {"reboot", do_reboot},
};

static void answer(FILE *out, char *line) {
    line[strcspn(line, "\r\n")] = 0;
    if (!*line) return;
    char *arguments = line, *name = strsep(&arguments, " ");
    if (*name == '@' && arguments) {
        fprintf(out, "%s ", name);
        name = strsep(&arguments, " ");
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (!strcmp(name, commands[i].name)) {
            commands[i].answer(out, arguments ? arguments : "");
            fflush(out);
            return;
        }
    put_error(out, "unknown command");
    fflush(out);
}

static void serve(int fd) { /* until end of stream */
    FILE *in = fdopen(fd, "r"), *out = fdopen(dup(fd), "w");
    char line[4096];
    while (in && out && fgets(line, sizeof line, in)) answer(out, line);
    if (in) fclose(in);
    if (out) fclose(out);
}

static _Noreturn void serve_tcp(void) {
    int listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 16)) {
        console("limosa-guest: port %d: %s", PORT, strerror(errno));
        exit(1);
    }
    signal(SIGCHLD, SIG_DFL);
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        for (int status; waitpid(-1, &status, WNOHANG) > 0;)
            if (status) state->deaths++;
        if (fd < 0) continue;
        if (!fork()) {
            close(listener);
            serve(fd);
            exit(0);
        }
        close(fd);
    }
}

static int find_virtio_port(char *path, size_t size) {
    DIR *ports = opendir("/sys/class/virtio-ports");
    int found = 0;
    for (struct dirent *entry; ports && !found && (entry = readdir(ports));) {
        char name[64];
        if (read_text(name, sizeof name, "/sys/class/virtio-ports/%s/name", entry->d_name) <= 0 || strcmp(name, "limosa.0")) continue;
        snprintf(path, size, "/dev/%s", entry->d_name);
        found = 1;
    }
    if (ports) closedir(ports);
    return found;
}

static _Noreturn void serve_virtio(void) {
    char path[300];
    for (;;) {
        /* The port may be plugged later, and reading one that nobody has opened outside ends at once: look again. */
        int fd = find_virtio_port(path, sizeof path) ? open(path, O_RDWR | O_CLOEXEC) : -1;
        if (fd >= 0) {
            struct pollfd poll_it = {.fd = fd, .events = POLLIN};
            poll(&poll_it, 1, 1000);
            if (poll_it.revents & POLLIN) serve(fd);
            else close(fd);
            if (!(poll_it.revents & POLLHUP)) continue;
        }
        usleep(200000);
    }
}

static _Noreturn void serve_console(void) {
    for (;;) {
        int fd = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);
        struct termios mode;
        if (fd < 0 || tcgetattr(fd, &mode)) exit(0);
        cfmakeraw(&mode);
        mode.c_oflag |= OPOST | ONLCR;
        tcsetattr(fd, TCSANOW, &mode);
        serve(fd);
        usleep(200000);
    }
}

_Noreturn void run_agent(void) {
    if (!fork()) serve_virtio();
    if (!fork()) serve_console();
    serve_tcp();
}
