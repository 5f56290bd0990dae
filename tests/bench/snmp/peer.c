/*
 * peer: an SNMP agent on net-snmp's libraries that serves the bench's table, to compare the project's agent with.
 *
 *   peer PORT ROWS
 *
 * The table is twelve columns of cipSecTunnelTable, held in a sorted binary array in memory and served through
 * net-snmp's table_container helper: rows are found by bisection and values are taken from a structure, so that what is
 * measured is net-snmp's engine and not a table of ours. Values follow from the row number as in table.py.
 *
 * It listens on 127.0.0.1:PORT only, knows the community "bench" and the user "bench" (SHA-256, AES-128), reads no
 * configuration and keeps no state: the caller names a folder of its own in SNMP_PERSISTENT_DIR and SNMPCONFPATH.
 * It says "ready" on its standard output once it answers, and "memory KILOBYTES" (resident) for each line it reads there;
 * it ends at the end of its standard input.
 */
#include <net-snmp/net-snmp-config.h>
#include <net-snmp/net-snmp-includes.h>
#include <net-snmp/agent/net-snmp-agent-includes.h>
#include <net-snmp/agent/table_container.h>

#include <signal.h>

/*
 * Debian builds net-snmp with tcp_wrappers, which would open and read /etc/hosts.allow and hosts.deny for each request.
 * That is no part of the engine: this stands in for libwrap, so that net-snmp is measured at its best.
 */
int hosts_ctl(const char *daemon, const char *name, const char *address, const char *user) {
    (void)daemon;
    (void)name;
    (void)address;
    (void)user;
    return 1;
}

/* Exported by libnetsnmpagent, declared in headers that are not installed. */
void init_usmConf(void);
void init_vacm_conf(void);
void init_vacm_vars(void);

static const oid TABLE[] = {1, 3, 6, 1, 4, 1, 9, 9, 171, 1, 3, 2};
static const unsigned FIRST_COLUMN = 2, LAST_COLUMN = 51;
/* table.py has the same list. */
static unsigned served_columns[] = {2, 4, 5, 7, 9, 10, 13, 26, 27, 32, 40, 51};

struct row {
    netsnmp_index index; /* first, as the helper demands */
    oid number;
    long ike_tunnel, encapsulation, life_time, active_time, status;
    u_long refreshes, in_octets, in_packets;
    struct counter64 hc_in_octets, hc_out_octets;
    u_char local[4], remote[4];
};

static struct counter64 counter64_of(unsigned long long value) {
    struct counter64 result = {.high = (u_long)(value >> 32), .low = (u_long)(value & 0xffffffffUL)};
    return result;
}

static void address(u_char *where, u_char first, unsigned long n) {
    where[0] = first;
    where[1] = (u_char)(n >> 16);
    where[2] = (u_char)(n >> 8);
    where[3] = (u_char)n;
}

static void fill(struct row *row, unsigned long n) {
    row->number = n;
    row->index.oids = &row->number;
    row->index.len = 1;
    row->ike_tunnel = (long)n;
    address(row->local, 10, n);
    address(row->remote, 172, n);
    row->encapsulation = 1;
    row->life_time = 3600;
    row->active_time = (long)(n * 100);
    row->refreshes = n % 7;
    row->in_octets = (n * 1234567UL) & 0xffffffffUL;
    row->hc_in_octets = counter64_of(n * 1234567ULL);
    row->in_packets = (n * 1000UL) & 0xffffffffUL;
    row->hc_out_octets = counter64_of(n * 7654321ULL);
    row->status = 1;
}

static int set(netsnmp_variable_list *varbind, u_char type, const void *value, size_t length) {
    return snmp_set_var_typed_value(varbind, type, value, length);
}

static int value_of(netsnmp_variable_list *varbind, unsigned column, const struct row *row) {
    switch (column) {
    case 2: return set(varbind, ASN_INTEGER, &row->ike_tunnel, sizeof row->ike_tunnel);
    case 4: return set(varbind, ASN_OCTET_STR, row->local, sizeof row->local);
    case 5: return set(varbind, ASN_OCTET_STR, row->remote, sizeof row->remote);
    case 7: return set(varbind, ASN_INTEGER, &row->encapsulation, sizeof row->encapsulation);
    case 9: return set(varbind, ASN_INTEGER, &row->life_time, sizeof row->life_time);
    case 10: return set(varbind, ASN_INTEGER, &row->active_time, sizeof row->active_time);
    case 13: return set(varbind, ASN_COUNTER, &row->refreshes, sizeof row->refreshes);
    case 26: return set(varbind, ASN_COUNTER, &row->in_octets, sizeof row->in_octets);
    case 27: return set(varbind, ASN_COUNTER64, &row->hc_in_octets, sizeof row->hc_in_octets);
    case 32: return set(varbind, ASN_COUNTER, &row->in_packets, sizeof row->in_packets);
    case 40: return set(varbind, ASN_COUNTER64, &row->hc_out_octets, sizeof row->hc_out_octets);
    case 51: return set(varbind, ASN_INTEGER, &row->status, sizeof row->status);
    default: return -1;
    }
}

/* The helper turns GETNEXT and GETBULK into GET of the row that follows, so that only values are to be given. */
static int handler(netsnmp_mib_handler *self, netsnmp_handler_registration *registration,
                   netsnmp_agent_request_info *info, netsnmp_request_info *requests) {
    (void)self;
    (void)registration;
    if (info->mode != MODE_GET)
        return SNMP_ERR_GENERR;
    for (netsnmp_request_info *request = requests; request; request = request->next) {
        if (request->processed)
            continue;
        const struct row *row = netsnmp_container_table_row_extract(request);
        const netsnmp_table_request_info *table = netsnmp_extract_table_info(request);
        if (!row || !table || value_of(request->requestvb, table->colnum, row) != 0)
            netsnmp_set_request_error(info, request, SNMP_NOSUCHINSTANCE);
    }
    return SNMP_ERR_NOERROR;
}

static int serve_table(unsigned long rows) {
    static netsnmp_column_info columns;
    netsnmp_container *container = netsnmp_container_find("bench:table_container:binary_array");
    struct row *all = calloc(rows, sizeof *all);
    netsnmp_table_registration_info *info = SNMP_MALLOC_TYPEDEF(netsnmp_table_registration_info);
    netsnmp_handler_registration *registration =
        netsnmp_create_handler_registration("cipSecTunnelTable", handler, TABLE, OID_LENGTH(TABLE), HANDLER_CAN_RONLY);
    if (!container || (rows && !all) || !info || !registration)
        return -1;
    for (unsigned long n = 1; n <= rows; n++) {
        fill(&all[n - 1], n);
        if (CONTAINER_INSERT(container, &all[n - 1]) != 0)
            return -1;
    }
    columns.isRange = 0;
    columns.list_count = sizeof served_columns / sizeof *served_columns;
    columns.details.list = served_columns;
    netsnmp_table_helper_add_indexes(info, ASN_INTEGER, 0);
    info->min_column = FIRST_COLUMN;
    info->max_column = LAST_COLUMN;
    info->valid_columns = &columns;
    return netsnmp_container_table_register(registration, info, container, TABLE_CONTAINER_KEY_NETSNMP_INDEX);
}

static long resident_kilobytes(void) {
    long kilobytes = -1;
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmRSS: %ld", &kilobytes) == 1)
            break;
    if (status)
        fclose(status);
    return kilobytes;
}

static int configure(const char *port) {
    char address[64];
    char lines[][160] = {
        "createUser bench SHA-256 authpassword AES privpassword",
        "rouser bench noauth",
        "rocommunity bench 127.0.0.1",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (netsnmp_config(lines[i]) != SNMPERR_SUCCESS)
            return -1;
    snprintf(address, sizeof address, "udp:127.0.0.1:%s", port);
    return netsnmp_ds_set_string(NETSNMP_DS_APPLICATION_ID, NETSNMP_DS_AGENT_PORTS, address);
}

int main(int argc, char **argv) {
    char *end;
    unsigned long rows = argc == 3 ? strtoul(argv[2], &end, 10) : 0;
    if (argc != 3 || *end || !getenv("SNMP_PERSISTENT_DIR")) {
        fprintf(stderr, "usage: SNMP_PERSISTENT_DIR=FOLDER SNMPCONFPATH=FOLDER %s PORT ROWS\n", argv[0]);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    snmp_enable_stderrlog();
    netsnmp_ds_set_boolean(NETSNMP_DS_APPLICATION_ID, NETSNMP_DS_AGENT_ROLE, 0);
    netsnmp_ds_set_boolean(NETSNMP_DS_LIBRARY_ID, NETSNMP_DS_LIB_DONT_READ_CONFIGS, 1);
    netsnmp_ds_set_boolean(NETSNMP_DS_LIBRARY_ID, NETSNMP_DS_LIB_DONT_PERSIST_STATE, 1);
    netsnmp_ds_set_boolean(NETSNMP_DS_LIBRARY_ID, NETSNMP_DS_LIB_DISABLE_PERSISTENT_LOAD, 1);
    netsnmp_ds_set_boolean(NETSNMP_DS_LIBRARY_ID, NETSNMP_DS_LIB_DISABLE_PERSISTENT_SAVE, 1);
    netsnmp_ds_set_boolean(NETSNMP_DS_APPLICATION_ID, NETSNMP_DS_AGENT_DONT_LOG_TCPWRAPPERS_CONNECTS, 1);
    /* otherwise it would listen for SMUX on every address */
    netsnmp_ds_set_string(NETSNMP_DS_APPLICATION_ID, NETSNMP_DS_SMUX_SOCKET, "127.0.0.1:0");
    if (init_agent("bench-peer") != 0) {
        fprintf(stderr, "peer: net-snmp's agent does not start\n");
        return 1;
    }
    init_usmConf();
    init_vacm_vars();
    init_vacm_conf();
    init_snmp("bench-peer");
    if (configure(argv[1]) != 0 || serve_table(rows) != 0 || init_master_agent() != 0) {
        fprintf(stderr, "peer: cannot serve %lu rows on port %s\n", rows, argv[1]);
        return 1;
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        /* Only what agent_check_and_process waits for, plus our standard input. */
        int count = 0, block = 0;
        fd_set readable;
        struct timeval timeout = {1, 0};
        char line[16];
        FD_ZERO(&readable);
        FD_SET(0, &readable);
        count = 1;
        snmp_select_info(&count, &readable, &timeout, &block);
        count = select(count, &readable, NULL, NULL, &timeout);
        if (count > 0 && FD_ISSET(0, &readable)) {
            if (read(0, line, sizeof line) <= 0)
                break;
            printf("memory %ld\n", resident_kilobytes());
            fflush(stdout);
            FD_CLR(0, &readable);
            count--;
        }
        if (count > 0)
            snmp_read(&readable);
        else if (count == 0)
            snmp_timeout();
        run_alarms();
        netsnmp_check_outstanding_agent_requests();
    }
    return 0;
}
