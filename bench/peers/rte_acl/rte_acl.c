/* DPDK's rte_acl under the load of `bench policy`: the same rules and tuples, timed in the same slices.
 *
 *   rte_acl --file DUMP --batch N [--algorithm NAME] [--seconds S] [--huge | --no-huge]
 *
 * DUMP is what `bench policy --dump` wrote. Every tuple's verdict is compared with the dump's: the rule that decided, not only
 * whether it allows. Prints one JSON line of the shape of `bench policy --json`. Exit codes: 0; 1 when a verdict differs or a run
 * went wrong; 2 for a command line that can't be run; 3 when there are not enough huge pages for --huge.
 *
 * Its best form: classified in batches, by the widest vectors that the library has for this processor (it does not take AVX-512
 * unless told that it may), one category, no limit on the size of its tries, the port and the protocol beside the address only.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <rte_acl.h>
#include <rte_byteorder.h>
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_malloc.h>
#include <rte_version.h>

#include "../slices.h"

/* ---- What was asked for. ---- */

static const struct {
	const char *name;
	enum rte_acl_classify_alg algorithm;
} ALGORITHMS[] = {
	/* In the order in which the library prefers them. */
	{"avx512x32", RTE_ACL_CLASSIFY_AVX512X32}, {"avx512x16", RTE_ACL_CLASSIFY_AVX512X16}, {"avx2", RTE_ACL_CLASSIFY_AVX2},
	{"sse", RTE_ACL_CLASSIFY_SSE},		   {"neon", RTE_ACL_CLASSIFY_NEON},	      {"scalar", RTE_ACL_CLASSIFY_SCALAR},
};

static struct {
	const char *file;
	uint32_t batch;
	const char *algorithm; /* NULL: the first that this machine can do */
	double seconds;
	bool huge;
} args = {.batch = 64, .seconds = 2.0};

enum {
	SLICE = 2048,
	SLICES_MIN = 5,
	BATCH_MAX = 256,
	NO_HUGE_MIB = 2048,
};

static void refuse(const char *what, const char *value, const char *expected)
{
	fprintf(stderr, "rte_acl: %s %s: %s\n", what, value, expected);
	exit(2);
}

static void parse(int argc, char **argv)
{
	for (int at = 1; at < argc; at++) {
		const char *name = argv[at];
		if (strcmp(name, "--huge") == 0 || strcmp(name, "--no-huge") == 0) {
			args.huge = name[2] == 'h';
			continue;
		}
		if (++at == argc)
			refuse(name, "", "a value is missing, or there is no such option");
		const char *value = argv[at];
		char *end;
		if (strcmp(name, "--file") == 0) {
			args.file = value;
		} else if (strcmp(name, "--batch") == 0) {
			unsigned long batch = strtoul(value, &end, 10);
			if (end == value || *end != 0 || batch == 0 || batch > BATCH_MAX)
				refuse(name, value, "1 to 256 can be");
			args.batch = (uint32_t)batch;
		} else if (strcmp(name, "--algorithm") == 0) {
			for (size_t known = 0; known < RTE_DIM(ALGORITHMS); known++) {
				if (strcmp(value, ALGORITHMS[known].name) == 0)
					args.algorithm = value;
			}
			if (args.algorithm == NULL)
				refuse(name, value, "avx512x32, avx512x16, avx2, sse, neon or scalar");
		} else if (strcmp(name, "--seconds") == 0) {
			args.seconds = strtod(value, NULL);
			if (!(args.seconds > 0 && args.seconds <= 3600))
				refuse(name, value, "more than 0, at most 3600");
		} else {
			refuse(name, value, "there is no such option");
		}
	}
	if (args.file == NULL)
		refuse("--file", "", "a dump of `bench policy --dump` is needed");
}

/* ---- Rules and tuples. ---- */

/* As it lies in a packet: numbers in network order. The library walks whole groups of 4 bytes after the first byte, so the 2
 * bytes beside the port are part of the key and match everything. */
struct tuple {
	uint8_t protocol;
	uint32_t peer;
	uint16_t any;
	uint16_t port;
} __attribute__((packed));

enum { PROTOCOL, PEER, ANY, PORT, FIELDS };

RTE_ACL_RULE_DEF(rule, FIELDS);

static const struct rte_acl_field_def DEFINITIONS[FIELDS] = {
	{RTE_ACL_FIELD_TYPE_BITMASK, 1, PROTOCOL, 0, offsetof(struct tuple, protocol)},
	{RTE_ACL_FIELD_TYPE_MASK, 4, PEER, 1, offsetof(struct tuple, peer)},
	{RTE_ACL_FIELD_TYPE_MASK, 2, ANY, 2, offsetof(struct tuple, any)},
	{RTE_ACL_FIELD_TYPE_RANGE, 2, PORT, 2, offsetof(struct tuple, port)},
};

static uint32_t rule_count, tuple_count;
static struct rule *rules;
static struct tuple *tuples;
static const uint8_t **pointers;
static uint32_t *expected; /* numbers of rules from 1, 0: none */

static void *zeroed(size_t count, size_t size)
{
	void *memory = calloc(count, size);
	if (memory == NULL) {
		fprintf(stderr, "rte_acl: no memory for %zu times %zu bytes\n", count, size);
		exit(1);
	}
	return memory;
}

static void not_a_dump(void)
{
	fprintf(stderr, "rte_acl: %s is not what `bench policy --dump` writes\n", args.file);
	exit(1);
}

static void read_dump(void)
{
	FILE *file = fopen(args.file, "r");

	if (file == NULL) {
		fprintf(stderr, "rte_acl: %s: %s\n", args.file, strerror(errno));
		exit(1);
	}
	if (fscanf(file, "%" SCNu32 " %" SCNu32 "\n", &rule_count, &tuple_count) != 2 || rule_count == 0 || tuple_count == 0)
		not_a_dump();
	rules = zeroed(rule_count, sizeof *rules);
	tuples = zeroed(tuple_count, sizeof *tuples);
	/* A classification may look at pointers in pairs. */
	pointers = zeroed(tuple_count, sizeof *pointers);
	expected = zeroed(tuple_count, sizeof *expected);
	for (uint32_t at = 0; at < rule_count; at++) {
		uint32_t address, length, protocol, first, last;
		if (fscanf(file, "rule %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 "\n", &address, &length, &protocol,
			   &first, &last) != 5)
			not_a_dump();
		struct rule *rule = &rules[at];
		rule->data.category_mask = 1;
		rule->data.priority = (int32_t)(rule_count - at); /* the first decides */
		rule->data.userdata = at + 1;
		rule->field[PROTOCOL].value.u8 = (uint8_t)protocol;
		rule->field[PROTOCOL].mask_range.u8 = protocol == 0 ? 0 : 0xff;
		rule->field[PEER].value.u32 = address;
		rule->field[PEER].mask_range.u32 = length;
		rule->field[PORT].value.u16 = (uint16_t)first;
		rule->field[PORT].mask_range.u16 = (uint16_t)last;
	}
	for (uint32_t at = 0; at < tuple_count; at++) {
		uint32_t peer, protocol, port;
		if (fscanf(file, "tuple %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 "\n", &peer, &protocol, &port, &expected[at]) != 4)
			not_a_dump();
		tuples[at] = (struct tuple){
			.protocol = (uint8_t)protocol, .peer = rte_cpu_to_be_32(peer), .port = rte_cpu_to_be_16((uint16_t)port)};
		pointers[at] = (const uint8_t *)&tuples[at];
	}
	fclose(file);
}

/* ---- The library. ---- */

static struct rte_acl_ctx *context;

static void start_eal(void)
{
	char name[] = "rte_acl", no_shconf[] = "--no-shconf", in_memory[] = "--in-memory", no_pci[] = "--no-pci", no_telemetry[] = "--no-telemetry",
	     level[] = "--log-level=error", wide[] = "--force-max-simd-bitwidth=512", core[] = "-l", cpu[16], no_huge[] = "--no-huge",
	     memory[] = "-m", megabytes[16];
	char *with_huge[] = {name, in_memory, no_pci, no_telemetry, level, wide, core, cpu, NULL};
	char *without[] = {name, no_shconf, no_pci, no_telemetry, level, wide, core, cpu, no_huge, memory, megabytes, NULL};
	cpu_set_t ours;
	int first = 0;

	/* DPDK binds the thread that starts it to a CPU; the other side's thread is not bound either. */
	if (sched_getaffinity(0, sizeof ours, &ours) != 0)
		abort();
	while (!CPU_ISSET(first, &ours))
		first++;
	snprintf(cpu, sizeof cpu, "%d", first);
	snprintf(megabytes, sizeof megabytes, "%d", NO_HUGE_MIB);
	int count = (int)(args.huge ? RTE_DIM(with_huge) : RTE_DIM(without)) - 1;
	if (rte_eal_init(count, args.huge ? with_huge : without) < 0) {
		fprintf(stderr, "rte_acl: DPDK did not start%s: %s\n", args.huge ? " on huge pages" : "", rte_strerror(rte_errno));
		exit(args.huge ? 3 : 1);
	}
	sched_setaffinity(0, sizeof ours, &ours);
}

static void fail(const char *what, int error)
{
	fprintf(stderr, "rte_acl: %s: %s\n", what, strerror(error));
	exit(error == ENOMEM && args.huge ? 3 : 1);
}

static void build(void)
{
	struct rte_acl_param parameters = {
		.name = "policy",
		.socket_id = (int)rte_socket_id(),
		.rule_size = RTE_ACL_RULE_SZ(FIELDS),
		.max_rule_num = rule_count,
	};
	struct rte_acl_config config = {.num_categories = 1, .num_fields = FIELDS};
	int failed;

	memcpy(config.defs, DEFINITIONS, sizeof DEFINITIONS);
	context = rte_acl_create(&parameters);
	if (context == NULL)
		fail("no context", rte_errno);
	if ((failed = rte_acl_add_rules(context, (const struct rte_acl_rule *)rules, rule_count)) != 0)
		fail("rules were refused", -failed);
	if ((failed = rte_acl_build(context, &config)) != 0)
		fail("the tries were not built", -failed);
}

/* The algorithm asked for, or the first that can be. Returns its name. */
static const char *choose(void)
{
	for (size_t at = 0; at < RTE_DIM(ALGORITHMS); at++) {
		if (args.algorithm != NULL && strcmp(args.algorithm, ALGORITHMS[at].name) != 0)
			continue;
		if (rte_acl_set_ctx_classify(context, ALGORITHMS[at].algorithm) == 0)
			return ALGORITHMS[at].name;
	}
	fprintf(stderr, "rte_acl: the library or the processor has no %s\n", args.algorithm);
	exit(1);
}

static void classify(uint32_t from, uint32_t count, uint32_t *results)
{
	for (uint32_t at = 0; at < count; at += args.batch) {
		int failed = rte_acl_classify(context, &pointers[from + at], &results[at], RTE_MIN(args.batch, count - at), 1);
		if (failed != 0)
			fail("classifying", -failed);
	}
}

int main(int argc, char **argv)
{
	parse(argc, argv);
	read_dump();
	start_eal();
	double started = now();
	build();
	double build_ms = (now() - started) * 1e3;
	const char *algorithm = choose();
	struct rte_malloc_socket_stats memory = {0};
	rte_malloc_get_socket_stats((int)rte_socket_id(), &memory);

	static uint32_t results[SLICE];
	struct slices slices = {0};
	uint32_t matched = 0;
	double end = 0;
	/* The first turn over all tuples compares and warms up; it is not timed. */
	for (uint64_t turn = 0; turn == 0 || now() < end || slices.count < SLICES_MIN; turn++) {
		for (uint32_t from = 0; from < tuple_count; from += SLICE) {
			uint32_t count = RTE_MIN((uint32_t)SLICE, tuple_count - from);
			memset(results, 0xff, sizeof results);
			long before = switches();
			uint64_t start = rte_rdtsc();
			classify(from, count, results);
			uint64_t ticks = rte_rdtsc() - start;
			bool clean = switches() == before;
			for (uint32_t at = 0; at < count; at++) {
				if (results[at] != expected[from + at]) {
					fprintf(stderr, "rte_acl: tuple %" PRIu32 " is decided by rule %" PRIu32 ", by the dump it is %" PRIu32 "\n",
						from + at + 1, results[at], expected[from + at]);
					return 1;
				}
				matched += turn == 0 && results[at] != 0;
			}
			if (turn > 0)
				push(&slices, count, ticks, clean);
		}
		if (turn == 0)
			end = now() + args.seconds;
	}
	uint64_t tsc_hz = measured_tsc_hz();
	double median = quantile(&slices, 0.5);
	printf("{\"rules\":%" PRIu32 ",\"tuples\":%" PRIu32 ",\"matched\":%" PRIu32 ",\"checked\":%" PRIu32 ",\"impl\":\"rte_acl\",\"batch\":%" PRIu32 ","
	       "\"algorithm\":\"%s\",\"cycles_per_verdict\":%.1f,\"cycles_per_verdict_quartiles\":[%.1f,%.1f],\"ns_per_verdict\":%.1f,"
	       "\"build_ms\":%.1f,\"heap_mib\":%.1f,\"slices\":%zu,\"slices_undisturbed\":%zu,\"tsc_hz\":%" PRIu64 ",\"pages\":\"%s\",\"version\":\"%s\"}\n",
	       rule_count, tuple_count, matched, tuple_count, args.batch, algorithm, median, quantile(&slices, 0.25),
	       quantile(&slices, 0.75), median / (double)tsc_hz * 1e9, build_ms, (double)memory.heap_allocsz_bytes / (1 << 20), slices.count, slices.cleans, tsc_hz,
	       args.huge ? "huge pages" : "4 KiB pages (--no-huge)", rte_version());
	rte_acl_free(context);
	rte_eal_cleanup();
	return 0;
}
