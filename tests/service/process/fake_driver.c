// A stand-in for libcuda.so.1 that shows FAKE_GPUS GPUs as NVIDIA documents CUDA_VISIBLE_DEVICES: read once, when the driver
// starts; names up to the first that is wrong; of MIG parts the first only. Each start is a line in FAKE_DRIVER_LOG.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int started, count;

static int shown(const char *names, int gpus) {
    char copy[256] = {0}, *end;
    int found = 0;
    strncpy(copy, names, sizeof copy - 1);
    for (char *name = strtok(copy, ","); name; name = strtok(NULL, ",")) {
        if (!strncmp(name, "MIG-", 4)) return 1;
        long index = strtol(name, &end, 10);
        int right = strncmp(name, "GPU-", 4) ? end != name && index >= 0 && index < gpus : 1;
        if (!right) break;
        found++;
    }
    return found;
}

int cuInit(unsigned flags) {
    const char *names = getenv("CUDA_VISIBLE_DEVICES"), *gpus = getenv("FAKE_GPUS"), *log = getenv("FAKE_DRIVER_LOG");
    if (!started) {
        started = 1;
        count = names ? shown(names, atoi(gpus)) : atoi(gpus);
        FILE *file = log ? fopen(log, "a") : NULL;
        if (file) {
            fprintf(file, "%d %s\n", getpid(), names ? names : "unset");
            fclose(file);
        }
    }
    return count ? 0 : 100;
}

int cuDeviceGetCount(int *answer) {
    *answer = count;
    return 0;
}
