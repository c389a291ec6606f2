/* Slices: bench/src/slices.rs in C, for the programs beside it. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include <rte_cycles.h>

/* Below so many undisturbed slices all count. */
enum { CLEAN_MIN = 5 };

struct slices {
	double *per_item;
	bool *clean;
	size_t count, room, cleans;
};

static long switches(void)
{
	struct rusage usage;
	return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_nivcsw : -1;
}

static void push(struct slices *slices, uint64_t items, uint64_t ticks, bool clean)
{
	if (slices->count == slices->room) {
		slices->room = slices->room ? slices->room * 2 : 1024;
		slices->per_item = realloc(slices->per_item, slices->room * sizeof *slices->per_item);
		slices->clean = realloc(slices->clean, slices->room * sizeof *slices->clean);
		if (slices->per_item == NULL || slices->clean == NULL)
			abort();
	}
	slices->per_item[slices->count] = (double)ticks / (double)items;
	slices->clean[slices->count++] = clean;
	slices->cleans += clean;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double quantile(const struct slices *slices, double part)
{
	double *sorted = malloc(slices->count * sizeof *sorted);
	size_t count = 0;

	if (sorted == NULL)
		abort();
	for (size_t at = 0; at < slices->count; at++) {
		if (slices->clean[at] || slices->cleans < CLEAN_MIN)
			sorted[count++] = slices->per_item[at];
	}
	qsort(sorted, count, sizeof *sorted, by_size);
	double value = sorted[(size_t)((double)(count - 1) * part + 0.5)];
	free(sorted);
	return value;
}

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static uint64_t measured_tsc_hz(void)
{
	double start = now();
	uint64_t ticks = rte_rdtsc();

	while (now() - start < 0.05)
		;
	return (uint64_t)((double)(rte_rdtsc() - ticks) / (now() - start));
}
