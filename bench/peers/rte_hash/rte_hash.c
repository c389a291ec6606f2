/* DPDK's rte_hash under the load of `bench table`: the same keys, in the same order, timed in the same slices.
 *
 *   rte_hash --op hit|miss|mixed|churn --flows F --batch N --threads T [--seconds S] [--seed N] [--huge | --no-huge]
 *
 * Prints one JSON line of the shape of `bench table --json`. Exit codes: 0; 1 when a run went wrong (a key that is there was not
 * found, the table was full); 2 for a command line that can't be run; 3 when there are no huge pages for --huge.
 *
 * Its best form: CRC hash, bulk lookups, an index that is at most 80 % full, 8 bytes of data beside the key, no concurrency flags
 * for one thread and RW_CONCURRENCY_LF for several.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_lcore.h>
#include <rte_version.h>

#include "../slices.h"

/* ---- The load: bench/src/table/contender.rs and bench/src/random.rs in C. ---- */

struct key {
	uint64_t addresses;
	uint64_t rest; /* source port, destination port, zone, protocol */
};

static void keys_of(uint32_t number, struct key out[2])
{
	uint64_t client = 0x0a000000u + (number >> 16), server = 0x0a800001u;
	uint64_t sport = number & 0xffff, dport = 80, tcp = 6;

	out[0] = (struct key){client << 32 | server, sport << 48 | dport << 32 | tcp};
	out[1] = (struct key){server << 32 | client, dport << 48 | sport << 32 | tcp};
}

/* A key that no connection has: another zone. */
static struct key nobodys(struct key key)
{
	key.rest ^= 1u << 20;
	return key;
}

/* SplitMix64. */
static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static uint64_t below(uint64_t *state, uint64_t end)
{
	return (uint64_t)((unsigned __int128)next_random(state) * end >> 64);
}

/* ---- What was asked for. ---- */

enum op { HIT, MISS, MIXED, CHURN };
static const char *const OPS[] = {"hit", "miss", "mixed", "churn"};

static struct {
	enum op op;
	uint32_t flows;
	uint32_t batch;
	uint32_t threads;
	double seconds;
	uint64_t seed;
	bool huge;
} args = {.flows = 64000, .batch = 64, .threads = 1, .seconds = 2.0, .seed = 1};

enum {
	LOOKUP_SLICE = 8192,
	CHURN_SLICE = 4096,
	SLICES_MIN = 5,
	THREADS_MAX = 64,
};

static void refuse(const char *what, const char *value, const char *expected)
{
	fprintf(stderr, "rte_hash: %s %s: %s\n", what, value, expected);
	exit(2);
}

static uint64_t number(const char *what, const char *text, uint64_t last)
{
	char *end;
	errno = 0;
	uint64_t value = strtoull(text, &end, 10);

	if (errno != 0 || end == text || *end != 0 || value == 0 || value > last) {
		char expected[64];
		snprintf(expected, sizeof expected, "1 to %" PRIu64 " can be", last);
		refuse(what, text, expected);
	}
	return value;
}

static void parse(int argc, char **argv)
{
	bool op_given = false;

	for (int at = 1; at < argc; at++) {
		const char *name = argv[at];
		if (strcmp(name, "--huge") == 0 || strcmp(name, "--no-huge") == 0) {
			args.huge = name[2] == 'h';
			continue;
		}
		if (++at == argc)
			refuse(name, "", "a value is missing, or there is no such option");
		const char *value = argv[at];
		if (strcmp(name, "--op") == 0) {
			for (unsigned op = 0; op < RTE_DIM(OPS); op++) {
				if (strcmp(value, OPS[op]) == 0) {
					args.op = op;
					op_given = true;
				}
			}
			if (!op_given)
				refuse(name, value, "hit, miss, mixed or churn");
		} else if (strcmp(name, "--flows") == 0) {
			args.flows = number(name, value, 1u << 27);
		} else if (strcmp(name, "--batch") == 0) {
			args.batch = number(name, value, RTE_HASH_LOOKUP_BULK_MAX);
		} else if (strcmp(name, "--threads") == 0) {
			args.threads = number(name, value, THREADS_MAX);
		} else if (strcmp(name, "--seed") == 0) {
			args.seed = number(name, value, UINT64_MAX);
		} else if (strcmp(name, "--seconds") == 0) {
			args.seconds = strtod(value, NULL);
			if (!(args.seconds > 0 && args.seconds <= 3600))
				refuse(name, value, "more than 0, at most 3600");
		} else {
			refuse(name, value, "there is no such option");
		}
	}
	if (!op_given)
		refuse("--op", "", "hit, miss, mixed or churn");
	if (args.op == CHURN && args.threads > 1)
		refuse("--op", "churn", "is for one thread here: give --threads 1");
}

/* ---- The table. ---- */

static struct rte_hash *table;
static pthread_barrier_t barrier;

static void insert(uint32_t connection)
{
	struct key keys[2];

	keys_of(connection, keys);
	for (int at = 0; at < 2; at++) {
		int failed = rte_hash_add_key_data(table, &keys[at], (void *)(uintptr_t)(connection + 1));
		if (failed != 0) {
			fprintf(stderr, "rte_hash: connection %" PRIu32 " was refused: %s\n", connection, strerror(-failed));
			exit(1);
		}
	}
}

static void delete(uint32_t connection)
{
	struct key keys[2];

	keys_of(connection, keys);
	for (int at = 0; at < 2; at++) {
		if (rte_hash_del_key(table, &keys[at]) < 0) {
			fprintf(stderr, "rte_hash: connection %" PRIu32 " is not there\n", connection);
			exit(1);
		}
	}
}

/* All keys, once each, in random order. `hits`: which of them are there. */
static struct key *keys_in_order(uint32_t thread, bool **hits)
{
	size_t count = (size_t)args.flows * 2;
	struct key *keys = malloc(count * sizeof *keys);
	uint64_t random = args.seed + 1 + thread;

	*hits = malloc(count);
	if (keys == NULL || *hits == NULL) {
		fprintf(stderr, "rte_hash: no memory for %zu keys\n", count);
		exit(1);
	}
	for (uint32_t connection = 0; connection < args.flows; connection++) {
		size_t first = (size_t)connection * 2;
		keys_of(connection, &keys[first]);
		for (size_t at = 0; at < 2; at++) {
			bool hit = args.op == HIT || (args.op == MIXED && (first / 2 + at) % 2 == 0);
			(*hits)[first + at] = hit;
			if (!hit)
				keys[first + at] = nobodys(keys[first + at]);
		}
	}
	for (size_t at = count - 1; at > 0; at--) {
		size_t with = below(&random, at + 1);
		struct key key = keys[at];
		bool hit = (*hits)[at];
		keys[at] = keys[with];
		(*hits)[at] = (*hits)[with];
		keys[with] = key;
		(*hits)[with] = hit;
	}
	return keys;
}

/* Looks `count` keys up. Returns how many are there; reads the data of each. */
static inline uint32_t lookup(const struct key *keys, uint32_t count)
{
	const void *pointers[RTE_HASH_LOOKUP_BULK_MAX];
	hash_sig_t hashes[RTE_HASH_LOOKUP_BULK_MAX];
	void *data[RTE_HASH_LOOKUP_BULK_MAX];
	uint64_t hit_mask = 0;

	/* The hash inlined, as applications do it: rte_hash_lookup_bulk_data would call it by a pointer for each key. */
	for (uint32_t at = 0; at < count; at++) {
		pointers[at] = &keys[at];
		hashes[at] = rte_hash_crc(&keys[at], sizeof keys[at], (uint32_t)args.seed);
	}
	int found = rte_hash_lookup_with_hash_bulk_data(table, pointers, hashes, count, &hit_mask, data);
	__asm__ volatile("" : : "r"(data) : "memory");
	return found < 0 ? 0 : (uint32_t)found;
}

static struct slices *lookups(uint32_t thread)
{
	struct slices *slices = calloc(1, sizeof *slices);
	bool *hits;
	struct key *keys = keys_in_order(thread, &hits);
	size_t all = (size_t)args.flows * 2, at = 0, batches = (all + args.batch - 1) / args.batch, batch = 0;
	uint32_t *wanted_of = calloc(batches, sizeof *wanted_of);

	if (slices == NULL || wanted_of == NULL)
		abort();
	for (size_t key = 0; key < all; key++)
		wanted_of[key / args.batch] += hits[key];
	free(hits);
	pthread_barrier_wait(&barrier);
	double end = now() + args.seconds;
	while (now() < end || slices->count < SLICES_MIN) {
		uint64_t looked_up = 0, found = 0, wanted = 0;
		long before = switches();
		uint64_t start = rte_rdtsc();
		while (looked_up < LOOKUP_SLICE) {
			uint32_t count = RTE_MIN(args.batch, all - at);
			found += lookup(&keys[at], count);
			wanted += wanted_of[batch];
			looked_up += count;
			at += count;
			if (++batch == batches)
				at = batch = 0;
		}
		uint64_t ticks = rte_rdtsc() - start;
		push(slices, looked_up, ticks, switches() == before);
		if (found != wanted) {
			fprintf(stderr, "rte_hash: %" PRIu64 " of %" PRIu64 " keys were found, %" PRIu64 " are there\n", found,
				looked_up, wanted);
			exit(1);
		}
	}
	free(wanted_of);
	free(keys);
	return slices;
}

/* The oldest connection removed, a new one inserted. */
static struct slices *churn(void)
{
	struct slices *slices = calloc(1, sizeof *slices);
	uint32_t oldest = 0, next = args.flows;

	if (slices == NULL)
		abort();
	double end = now() + args.seconds;
	while (now() < end || slices->count < SLICES_MIN) {
		long before = switches();
		uint64_t start = rte_rdtsc();
		for (int count = 0; count < CHURN_SLICE; count++) {
			delete(oldest++);
			insert(next++);
		}
		uint64_t ticks = rte_rdtsc() - start;
		push(slices, CHURN_SLICE, ticks, switches() == before);
	}
	return slices;
}

static void *work(void *thread)
{
	return args.op == CHURN ? churn() : lookups((uint32_t)(uintptr_t)thread);
}

static void start_eal(void)
{
	char name[] = "rte_hash", in_memory[] = "--in-memory", no_shconf[] = "--no-shconf", no_pci[] = "--no-pci", no_telemetry[] = "--no-telemetry",
	     level[] = "--log-level=error", core[] = "-l", cpu[16], no_huge[] = "--no-huge", memory[] = "-m", megabytes[16];
	/* The table, its ring of free slots, and room to grow in. */
	uint64_t bytes = (uint64_t)args.flows * 2 * 160 + (64u << 20);
	/* Nothing is left on disk either way; DPDK has --in-memory for huge pages only. */
	char *with[] = {name, args.huge ? in_memory : no_shconf, no_pci, no_telemetry, level, core, cpu, memory, megabytes,
			no_huge, NULL};
	cpu_set_t ours;
	int first = 0;

	/* DPDK binds the thread that starts it to a CPU; the other tables' threads are not bound either. */
	if (sched_getaffinity(0, sizeof ours, &ours) != 0)
		abort();
	while (!CPU_ISSET(first, &ours))
		first++;
	snprintf(cpu, sizeof cpu, "%d", first);
	snprintf(megabytes, sizeof megabytes, "%" PRIu64, bytes >> 20);
	if (rte_eal_init(args.huge ? 9 : 10, with) < 0) {
		fprintf(stderr, "rte_hash: DPDK did not start%s: %s\n", args.huge ? " on huge pages" : "",
			rte_strerror(rte_errno));
		exit(args.huge ? 3 : 1);
	}
	sched_setaffinity(0, sizeof ours, &ours);
}

int main(int argc, char **argv)
{
	parse(argc, argv);
	start_eal();
	struct rte_hash_parameters parameters = {
		.name = "flows",
		/* Its index is a power of two: a quarter more than the keys makes it at most 80 % full. */
		.entries = args.flows * 2 + args.flows / 2 + RTE_HASH_LOOKUP_BULK_MAX,
		.key_len = sizeof(struct key),
		.hash_func = rte_hash_crc,
		.hash_func_init_val = (uint32_t)args.seed,
		.socket_id = (int)rte_socket_id(),
		.extra_flag = args.threads > 1 ? RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF : 0,
	};
	table = rte_hash_create(&parameters);
	if (table == NULL) {
		fprintf(stderr, "rte_hash: no table for %" PRIu32 " connections: %s\n", args.flows, rte_strerror(rte_errno));
		return 1;
	}
	for (uint32_t connection = 0; connection < args.flows; connection++)
		insert(connection);

	pthread_t threads[THREADS_MAX];
	struct slices *slices[THREADS_MAX];
	pthread_barrier_init(&barrier, NULL, args.threads);
	for (uint32_t thread = 0; thread < args.threads; thread++) {
		if (pthread_create(&threads[thread], NULL, work, (void *)(uintptr_t)thread) != 0) {
			fprintf(stderr, "rte_hash: no thread number %" PRIu32 "\n", thread);
			return 1;
		}
	}
	double lower = 0, median = 0, upper = 0, mops = 0, hz = 0;
	size_t count = 0, clean = 0;
	uint64_t tsc_hz;
	for (uint32_t thread = 0; thread < args.threads; thread++)
		pthread_join(threads[thread], (void **)&slices[thread]);
	tsc_hz = measured_tsc_hz();
	hz = (double)tsc_hz;
	for (uint32_t thread = 0; thread < args.threads; thread++) {
		double middle = quantile(slices[thread], 0.5);
		median += middle / args.threads;
		lower += quantile(slices[thread], 0.25) / args.threads;
		upper += quantile(slices[thread], 0.75) / args.threads;
		mops += hz / middle / 1e6;
		count += slices[thread]->count;
		clean += slices[thread]->cleans;
	}
	printf("{\"op\":\"%s\",\"flows\":%" PRIu32 ",\"batch\":%" PRIu32 ",\"threads\":%" PRIu32 ",\"impl\":\"rte_hash\","
	       "\"cycles_per_op\":%.1f,\"cycles_per_op_quartiles\":[%.1f,%.1f],\"ns_per_op\":%.1f,\"mops\":%.3f,"
	       "\"bytes_per_connection\":null,\"slices\":%zu,\"slices_undisturbed\":%zu,\"tsc_hz\":%" PRIu64 ","
	       "\"pages\":\"%s\",\"version\":\"%s\"}\n",
	       OPS[args.op], args.flows, args.batch, args.threads, median, lower, upper, median / hz * 1e9, mops, count, clean,
	       tsc_hz, args.huge ? "huge pages" : "4 KiB pages (--no-huge)", rte_version());
	rte_hash_free(table);
	rte_eal_cleanup();
	return 0;
}
