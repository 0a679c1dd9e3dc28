/* Loads the drivers of the devices that are there, and of those that come, as udev and modprobe would.
 *
 * image.py writes two tables: /lib/drivers/aliases (`PATTERN MODULE`) and /lib/drivers/order (`MODULE: FIRST SECOND … MODULE`).
 */
#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define TABLES "/lib/drivers"

static char *slurp(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    char *text = calloc(1, (size_t)size + 1);
    if (fd < 0) return text;
    if (pread(fd, text, (size_t)size, 0) != size) text[0] = 0;
    close(fd);
    return text;
}

static bool seen(const char *module) { /* and remembers it */
    static char *loaded[256];
    static int count;
    for (int i = 0; i < count; i++)
        if (!strcmp(loaded[i], module)) return true;
    if (count < 256) loaded[count++] = strdup(module);
    return false;
}

static void load_file(const char *module) {
    char path[128];
    if (seen(module)) return;
    snprintf(path, sizeof path, TABLES "/%s.ko", module);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    /* These wait for each of their ports in turn, which nothing else need wait for. */
    pid_t aside = !strcmp(module, "ahci") || !strcmp(module, "ata_piix") ? fork() : -1;
    if (aside > 0) {
        close(fd);
        return;
    }
    if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST && errno != ENODEV)
        console("limosa-guest: driver %s: %s", module, strerror(errno));
    if (!aside) _exit(0);
    close(fd);
}

static void load_module(const char *module) { /* with all it needs */
    static char *order;
    if (!order) order = slurp(TABLES "/order");
    size_t length = strlen(module);
    for (char *line = order; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        if (strncmp(line, module, length) || line[length] != ':') continue;
        char names[512], *rest = names, *name;
        snprintf(names, sizeof names, "%.*s", (int)strcspn(line, "\n"), line);
        strsep(&rest, ":");
        while ((name = strsep(&rest, " ")))
            if (*name) load_file(name);
        return;
    }
}

void load_drivers_for(const char *modalias) {
    static char *aliases;
    if (!aliases) aliases = slurp(TABLES "/aliases");
    char pattern[256], module[64];
    size_t bus = strcspn(modalias, ":") + 1; /* comparing the bus first saves most of the work, which counts under emulation */
    for (const char *line = aliases; *line; line += strcspn(line, "\n"), line += *line == '\n')
        if (!strncmp(line, modalias, bus) && sscanf(line, "%255s %63s", pattern, module) == 2 && !fnmatch(pattern, modalias, 0))
            load_module(module);
}

static void visit_bus(const char *bus) {
    char path[300], modalias[512];
    snprintf(path, sizeof path, "/sys/bus/%s/devices", bus);
    DIR *devices = opendir(path);
    if (!devices) return;
    for (struct dirent *entry; (entry = readdir(devices));)
        if (entry->d_name[0] != '.' && read_text(modalias, sizeof modalias, "%s/%s/modalias", path, entry->d_name) > 0)
            load_drivers_for(modalias);
    closedir(devices);
}

/* A driver brings new devices (a virtio device behind its PCI function, a disk behind its controller): buses are visited
 * from the outside in, and what appears later comes as an event. */
void load_drivers_for_all_devices(void) {
    const char *buses[] = {"pci", "virtio", "scsi", "usb", "hid", "acpi"};
    for (size_t i = 0; i < sizeof buses / sizeof buses[0]; i++) visit_bus(buses[i]);
    while (waitpid(-1, NULL, 0) > 0) {} /* so that the disks that were there from the start are there */
}
