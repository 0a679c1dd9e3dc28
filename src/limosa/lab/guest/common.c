/* Small things that every program of the guest needs. */
#include "guest.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct state *state;

const char *parameter(const char *name) {
    static char line[4096];
    static char value[512];
    if (!line[0] && read_text(line, sizeof line, "/proc/cmdline") < 0) return NULL;
    size_t length = strlen(name);
    for (const char *at = line; (at = strstr(at, "limosa.")); at++) {
        const char *rest = at + strlen("limosa.");
        if ((at != line && at[-1] != ' ') || strncmp(rest, name, length) || rest[length] != '=') continue;
        rest += length + 1;
        snprintf(value, sizeof value, "%.*s", (int)strcspn(rest, " \n"), rest);
        return value;
    }
    return NULL;
}

uint64_t number(const char *text, uint64_t otherwise) { return text && isdigit(*text) ? strtoull(text, NULL, 10) : otherwise; }

uint64_t now_ns(int clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void sleep_until(uint64_t ns) {
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL)) {}
}

int read_text(char *into, size_t size, const char *format, ...) {
    char path[512];
    va_list values;
    va_start(values, format);
    vsnprintf(path, sizeof path, format, values);
    va_end(values);
    into[0] = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t length = read(fd, into, size - 1);
    close(fd);
    if (length < 0) return -1;
    into[length] = 0;
    while (length && isspace((unsigned char)into[length - 1])) into[--length] = 0;
    return (int)length;
}

bool write_text(const char *text, const char *format, ...) {
    char path[512];
    va_list values;
    va_start(values, format);
    vsnprintf(path, sizeof path, format, values);
    va_end(values);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return false;
    bool written = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return written;
}

void console(const char *format, ...) {
    char line[512];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(line, sizeof line - 1, format, values);
    va_end(values);
    if (length > (int)sizeof line - 2) length = sizeof line - 2;
    line[length] = '\n';
    int fd = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (fd < 0) return;
    ssize_t ignored = write(fd, line, (size_t)length + 1);
    (void)ignored;
    close(fd);
}

uint32_t crc32_of(const void *bytes, size_t size) { /* the one of zlib and zip, reflected 0xEDB88320 */
    static uint32_t table[256];
    if (!table[1]) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int bit = 0; bit < 8; bit++) c = c & 1 ? 0xEDB88320u ^ c >> 1 : c >> 1;
            table[i] = c;
        }
    }
    uint32_t crc = ~0u;
    for (const uint8_t *at = bytes; size--; at++) crc = table[(crc ^ *at) & 0xff] ^ crc >> 8;
    return ~crc;
}

bool is_disk(const char *name) { /* never a CD, floppy, loop or RAM device, nor a path that nvme hides behind its disk */
    char hidden[8];
    if (read_text(hidden, sizeof hidden, "/sys/block/%s/hidden", name) > 0 && hidden[0] == '1') return false;
    return !strncmp(name, "vd", 2) || !strncmp(name, "sd", 2) || !strncmp(name, "hd", 2) || !strncmp(name, "nvme", 4);
}

void disk_serial(const char *disk, char *into, size_t size) {
    if (read_text(into, size, "/sys/block/%s/serial", disk) > 0) return;
    if (read_text(into, size, "/sys/block/%s/device/serial", disk) > 0) return;
    char page[256]; /* SCSI vital product data, page 0x80: four bytes of header, then the serial number */
    char path[128];
    snprintf(path, sizeof path, "/sys/block/%s/device/vpd_pg80", disk);
    into[0] = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    ssize_t length = read(fd, page, sizeof page - 1);
    close(fd);
    if (length <= 4) return;
    page[length] = 0;
    const char *from = page + 4;
    while (*from == ' ') from++;
    snprintf(into, size, "%s", from);
    for (size_t end = strlen(into); end && into[end - 1] == ' ';) into[--end] = 0;
}
