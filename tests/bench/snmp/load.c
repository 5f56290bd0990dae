/*
 * load: an SNMP manager that does nothing but ask, check and count, so that it is not the limit of what is measured.
 *
 *   load --port P --rows N [--mode get|walk] [--seconds S | --count N] ...        (see usage below)
 *
 * It knows the bench's table (twelve columns, one integer index) and therefore every answer that it must get: in a walk
 * the instances one after the other without a gap, at its end rows times columns of them; in a GET the very names that
 * were asked for, with the columns' types; never an error-status or an exception. The first answer that is otherwise
 * ends it with status 1 and a line that says what was wrong. Answers of v3 are authenticated and decrypted as a manager
 * must. "digest" covers names and values of a whole walk, to compare two agents' tables.
 *
 * Results go to standard output as one JSON object. No library is used but libcrypto, whose SHA-256 and AES use the
 * processor's instructions.
 */
#define _GNU_SOURCE
#define OPENSSL_SUPPRESS_DEPRECATED
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 65536, MAX_POLLERS = 64, MAX_VARBINDS = 64, MAX_COLUMNS = 64, MAX_WINDOW = 64, MAC = 24 };
enum { GET = 0xa0, RESPONSE = 0xa2, GETBULK = 0xa5, REPORT = 0xa8 };
enum { NO_AUTH = 0, AUTH = 1, AUTH_PRIV = 3, REPORTABLE = 4 };

/* --- what is asked --------------------------------------------------------------------------------------------- */

static struct options {
    int port;
    bool walk, v3, digest;
    int level;
    const char *community, *user, *auth_password, *priv_password;
    unsigned long rows, repeat;
    unsigned columns[MAX_COLUMNS];
    uint8_t types[MAX_COLUMNS];
    int column_count, varbinds, repetitions, pollers, window;
    bool random;
    double seconds, interval;
    unsigned long count;
    uint8_t entry[64]; /* encoded name of the table's entry */
    size_t entry_length;
} options = {.community = "bench",
             .user = "bench",
             .auth_password = "authpassword",
             .priv_password = "privpassword",
             .varbinds = 1,
             .repetitions = 50,
             .pollers = 1,
             .window = 1,
             .random = true};

static const char USAGE[] =
    "usage: load --port P --rows N --entry OID --columns COLUMN:TYPE,... [options]\n"
    "  --mode get|walk     repeated GET of random instances (get), or GETBULK from the table's start to its end\n"
    "  --seconds S         how long (each poller ends the walk that it is in)\n"
    "  --count N           instead: how many requests, or walks, each poller makes\n"
    "  --varbinds N        instances in one GET (1)\n"
    "  --same              GET the same instances again and again instead of random ones\n"
    "  --repetitions N     max-repetitions of GETBULK (50)\n"
    "  --pollers N         threads that ask at once, each with a socket of its own (1)\n"
    "  --window N          GETs that one poller keeps under way (1)\n"
    "  --interval S        one GET each S seconds, for latencies (back to back)\n"
    "  --level noAuth|auth|authPriv      v3 with SHA-256 and AES-128 (else v2c)\n"
    "  --digest            print a digest of all names and values of a walk\n";

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static uint64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- BER, written from the end to the start so that lengths are known ------------------------------------------- */

struct writer {
    uint8_t *start, *at;
};

static void put(struct writer *w, const void *data, size_t length) {
    w->at -= length;
    if (w->at < w->start)
        die("a request does not fit its buffer");
    memcpy(w->at, data, length);
}

static void put_octet(struct writer *w, uint8_t octet) {
    *--w->at = octet;
}

/* The header of what lies between here and `end`. */
static void put_header(struct writer *w, uint8_t tag, const uint8_t *end) {
    size_t length = (size_t)(end - w->at);
    if (length < 128) {
        put_octet(w, (uint8_t)length);
    } else {
        put_octet(w, (uint8_t)length);
        put_octet(w, (uint8_t)(length >> 8));
        put_octet(w, 0x82);
    }
    put_octet(w, tag);
}

static void put_integer(struct writer *w, uint32_t value) {
    uint8_t *end = w->at;
    do {
        put_octet(w, (uint8_t)value);
        value >>= 8;
    } while (value);
    if (*w->at & 0x80)
        put_octet(w, 0);
    put_header(w, 2, end);
}

static void put_string(struct writer *w, const void *data, size_t length) {
    uint8_t *end = w->at;
    put(w, data, length);
    put_header(w, 4, end);
}

static void put_subid(struct writer *w, uint32_t value) {
    put_octet(w, value & 0x7f);
    while (value >>= 7)
        put_octet(w, (uint8_t)(value | 0x80));
}

/* A varbind with a NULL. Column 0: the entry itself; row 0: no row. */
static void put_varbind(struct writer *w, unsigned column, unsigned long row) {
    uint8_t *end = w->at, *name;
    put_octet(w, 0);
    put_octet(w, 5);
    name = w->at;
    if (row)
        put_subid(w, (uint32_t)row);
    if (column)
        put_subid(w, column);
    put(w, options.entry, options.entry_length);
    put_header(w, 6, name);
    put_header(w, 0x30, end);
}

struct reader {
    const uint8_t *at, *end;
};

static void wrong(const char *what) {
    die("wrong answer: %s", what);
}

/* The contents of the next TLV, which must have this tag; the reader moves behind it. */
static struct reader take(struct reader *r, int tag) {
    struct reader inner;
    size_t length, octets;
    if (r->end - r->at < 2)
        wrong("cut short");
    if (tag >= 0 && *r->at != tag)
        wrong("not the ASN.1 type that belongs there");
    length = r->at[1];
    r->at += 2;
    if (length & 0x80) {
        octets = length & 0x7f;
        if (octets > 3 || (size_t)(r->end - r->at) < octets)
            wrong("length");
        for (length = 0; octets; octets--)
            length = length << 8 | *r->at++;
    }
    if ((size_t)(r->end - r->at) < length)
        wrong("cut short");
    inner.at = r->at;
    inner.end = r->at += length;
    return inner;
}

static long take_integer(struct reader *r) {
    struct reader inner = take(r, 2);
    long value = 0;
    if (inner.at == inner.end || inner.end - inner.at > 8)
        wrong("INTEGER");
    value = (int8_t)*inner.at++;
    while (inner.at < inner.end)
        value = (long)((unsigned long)value << 8 | *inner.at++);
    return value;
}

static bool next_subid(struct reader *r, unsigned long *value) {
    *value = 0;
    while (r->at < r->end) {
        uint8_t octet = *r->at++;
        *value = *value << 7 | (octet & 0x7f);
        if (!(octet & 0x80))
            return true;
    }
    return false;
}

/* --- a poller --------------------------------------------------------------------------------------------------- */

struct slot {
    uint32_t id; /* request-id, and msgID in v3 */
    uint64_t sent;
    unsigned long rows[MAX_VARBINDS];
    int columns[MAX_VARBINDS]; /* indexes into options.columns */
};

struct poller {
    pthread_t thread;
    int number, socket;
    uint64_t random;
    uint32_t next_id;
    struct slot slots[MAX_WINDOW];
    /* v3 */
    uint8_t engine_id[32];
    size_t engine_id_length;
    uint32_t boots, time, salt;
    uint64_t time_seen;
    SHA256_CTX inner, outer;
    uint8_t cipher_key[16];
    EVP_CIPHER_CTX *seal, *open;
    /* results */
    unsigned long requests, varbinds, walks, octets;
    uint64_t started, ended, digest;
    uint32_t *latencies;
    size_t latency_count, latency_room;
    uint8_t out[BUFFER], in[BUFFER], plain[BUFFER + 16];
};

static uint32_t draw(struct poller *p, unsigned long below) {
    p->random ^= p->random << 13;
    p->random ^= p->random >> 7;
    p->random ^= p->random << 17;
    return (uint32_t)((p->random >> 32) * below >> 32);
}

static void derive(const char *password, const uint8_t *engine_id, size_t length, uint8_t key[32]) {
    /* RFC 3414 A.2: a megabyte of the password, then localized */
    SHA256_CTX context;
    uint8_t block[64];
    size_t size = strlen(password), at = 0;
    SHA256_Init(&context);
    for (int i = 0; i < 1048576 / 64; i++) {
        for (int j = 0; j < 64; j++)
            block[j] = (uint8_t)password[at++ % size];
        SHA256_Update(&context, block, sizeof block);
    }
    SHA256_Final(key, &context);
    SHA256_Init(&context);
    SHA256_Update(&context, key, 32);
    SHA256_Update(&context, engine_id, length);
    SHA256_Update(&context, key, 32);
    SHA256_Final(key, &context);
}

static void localize(struct poller *p) {
    uint8_t key[32], pad[64];
    derive(options.auth_password, p->engine_id, p->engine_id_length, key);
    memset(pad, 0x36, sizeof pad);
    for (int i = 0; i < 32; i++)
        pad[i] ^= key[i];
    SHA256_Init(&p->inner);
    SHA256_Update(&p->inner, pad, sizeof pad);
    memset(pad, 0x5c, sizeof pad);
    for (int i = 0; i < 32; i++)
        pad[i] ^= key[i];
    SHA256_Init(&p->outer);
    SHA256_Update(&p->outer, pad, sizeof pad);
    derive(options.priv_password, p->engine_id, p->engine_id_length, key);
    memcpy(p->cipher_key, key, sizeof p->cipher_key);
    p->seal = EVP_CIPHER_CTX_new();
    p->open = EVP_CIPHER_CTX_new();
    if (!p->seal || !p->open || !EVP_EncryptInit_ex(p->seal, EVP_aes_128_cfb128(), NULL, p->cipher_key, NULL) ||
        !EVP_DecryptInit_ex(p->open, EVP_aes_128_cfb128(), NULL, p->cipher_key, NULL))
        die("libcrypto has no AES-128-CFB");
}

static void mac_of(const struct poller *p, const uint8_t *data, size_t length, uint8_t mac[32]) {
    SHA256_CTX context = p->inner;
    SHA256_Update(&context, data, length);
    SHA256_Final(mac, &context);
    context = p->outer;
    SHA256_Update(&context, mac, 32);
    SHA256_Final(mac, &context);
}

static void iv_of(uint32_t boots, uint32_t time, const uint8_t salt[8], uint8_t iv[16]) {
    uint32_t words[2] = {htonl(boots), htonl(time)};
    memcpy(iv, words, 8);
    memcpy(iv + 8, salt, 8);
}

static uint32_t engine_time(const struct poller *p) {
    return p->time + (uint32_t)((nanoseconds() - p->time_seen) / 1000000000u);
}

/* Puts the message around the PDU that `w` holds up to `end`. `level` and the engine only matter in v3. */
static void put_message(struct poller *p, struct writer *w, uint8_t *end, uint32_t id, int level) {
    uint8_t flags = (uint8_t)(level | REPORTABLE), *mac = NULL, *inner, *middle, salt[8] = {0}, iv[16];
    uint32_t now = engine_time(p);
    int length;
    if (!options.v3) {
        put_string(w, options.community, strlen(options.community));
        put_integer(w, 1);
        put_header(w, 0x30, end);
        return;
    }
    put_string(w, "", 0);
    put_string(w, p->engine_id, p->engine_id_length);
    put_header(w, 0x30, end);
    if (level == AUTH_PRIV) {
        uint32_t words[2] = {htonl((uint32_t)p->number), htonl(++p->salt)};
        memcpy(salt, words, sizeof salt);
        iv_of(p->boots, now, salt, iv);
        length = (int)(end - w->at);
        /* CFB works in place */
        EVP_EncryptInit_ex(p->seal, NULL, NULL, NULL, iv);
        EVP_EncryptUpdate(p->seal, w->at, &length, w->at, length);
        put_header(w, 4, end);
    }
    middle = w->at;
    put_string(w, salt, level == AUTH_PRIV ? 8 : 0);
    if (level & AUTH) {
        static const uint8_t zeros[MAC];
        put_string(w, zeros, MAC);
        mac = w->at + 2;
    } else {
        put_string(w, "", 0);
    }
    put_string(w, options.user, p->engine_id_length ? strlen(options.user) : 0);
    put_integer(w, now);
    put_integer(w, p->boots);
    put_string(w, p->engine_id, p->engine_id_length);
    put_header(w, 0x30, middle);
    put_header(w, 4, middle);
    inner = w->at;
    put_integer(w, 3);
    put_string(w, &flags, 1);
    put_integer(w, 65507);
    put_integer(w, id);
    put_header(w, 0x30, inner);
    put_integer(w, 3);
    put_header(w, 0x30, end);
    if (mac) {
        uint8_t digest[32];
        mac_of(p, w->at, (size_t)(end - w->at), digest);
        memcpy(mac, digest, MAC);
    }
}

static void send_request(struct poller *p, const struct writer *w, const uint8_t *end) {
    if (send(p->socket, w->at, (size_t)(end - w->at), 0) < 0)
        die("send: %s", strerror(errno));
}

static size_t receive(struct poller *p) {
    ssize_t length = recv(p->socket, p->in, sizeof p->in, 0);
    if (length < 0)
        die("no answer: %s", strerror(errno));
    p->octets += (size_t)length;
    return (size_t)length;
}

/* Opens the message in p->in. Gives its PDU, from the PDU's tag on, in clear. */
static struct reader open_message(struct poller *p, size_t size, uint32_t *id, int level) {
    struct reader message = {p->in, p->in + size}, header, security, field, pdu;
    uint32_t boots, time;
    uint8_t flags, salt[8], iv[16], sent[MAC], mac[32];
    int length;
    message = take(&message, 0x30);
    if (!options.v3) {
        if (take_integer(&message) != 1)
            wrong("version");
        field = take(&message, 4);
        return message;
    }
    if (take_integer(&message) != 3)
        wrong("version");
    header = take(&message, 0x30);
    *id = (uint32_t)take_integer(&header);
    take_integer(&header);
    field = take(&header, 4);
    flags = *field.at;
    security = take(&message, 4);
    security = take(&security, 0x30);
    field = take(&security, 4);
    if (!p->engine_id_length) {
        p->engine_id_length = (size_t)(field.end - field.at);
        if (p->engine_id_length < 5 || p->engine_id_length > sizeof p->engine_id)
            wrong("engine ID");
        memcpy(p->engine_id, field.at, p->engine_id_length);
    }
    boots = (uint32_t)take_integer(&security);
    time = (uint32_t)take_integer(&security);
    field = take(&security, 4);
    field = take(&security, 4);
    if ((flags & AUTH_PRIV) != level)
        wrong("its security level");
    if (level & AUTH) {
        if (field.end - field.at != MAC)
            wrong("length of its authentication parameters");
        memcpy(sent, field.at, MAC);
        memset((uint8_t *)field.at, 0, MAC);
        mac_of(p, p->in, size, mac);
        if (memcmp(sent, mac, MAC) != 0)
            wrong("not authentic");
    }
    if (boots != p->boots || level == NO_AUTH || time > p->time) {
        p->boots = boots;
        p->time = time;
        p->time_seen = nanoseconds();
    }
    field = take(&security, 4);
    pdu = message;
    if (level == AUTH_PRIV) {
        if (field.end - field.at != 8)
            wrong("length of its privacy parameters");
        memcpy(salt, field.at, 8);
        iv_of(boots, time, salt, iv);
        pdu = take(&message, 4);
        EVP_DecryptInit_ex(p->open, NULL, NULL, NULL, iv);
        EVP_DecryptUpdate(p->open, p->plain, &length, pdu.at, (int)(pdu.end - pdu.at));
        pdu.at = p->plain;
        pdu.end = p->plain + length;
    }
    pdu = take(&pdu, 0x30);
    take(&pdu, 4);
    take(&pdu, 4);
    return pdu;
}

/* The varbinds of a Response without errors; its request-id. */
static struct reader varbinds_of(struct reader pdu, uint32_t *id) {
    long status;
    pdu = take(&pdu, RESPONSE);
    *id = (uint32_t)take_integer(&pdu);
    if ((status = take_integer(&pdu)) != 0)
        die("wrong answer: error-status %ld, error-index %ld", status, take_integer(&pdu));
    take_integer(&pdu);
    return take(&pdu, 0x30);
}

static void discover(struct poller *p) {
    uint32_t id;
    if (!options.v3)
        return;
    /* two exchanges: the engine ID, then its clock (which a report to an authenticated request carries) */
    for (int round = 0; round < 2; round++) {
        struct writer w = {p->out, p->out + sizeof p->out};
        uint8_t *end = w.at;
        struct reader pdu;
        put_header(&w, 0x30, end);
        put_integer(&w, 0);
        put_integer(&w, 0);
        put_integer(&w, 1);
        put_header(&w, GET, end);
        put_message(p, &w, end, 1, NO_AUTH);
        send_request(p, &w, end);
        pdu = open_message(p, receive(p), &id, NO_AUTH);
        if (pdu.at == pdu.end || (*pdu.at != REPORT && *pdu.at != RESPONSE))
            wrong("no report");
        if (round == 0)
            localize(p);
    }
}

static void record(struct poller *p, uint64_t sent) {
    uint64_t took = nanoseconds() - sent;
    if (p->latency_count == p->latency_room) {
        p->latency_room = p->latency_room ? p->latency_room * 2 : 65536;
        p->latencies = realloc(p->latencies, p->latency_room * sizeof *p->latencies);
        if (!p->latencies)
            die("out of memory");
    }
    p->latencies[p->latency_count++] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
}

/* --- GET -------------------------------------------------------------------------------------------------------- */

static void ask(struct poller *p, struct slot *slot) {
    struct writer w = {p->out, p->out + sizeof p->out};
    uint8_t *end = w.at;
    slot->id = ++p->next_id & 0x7fffffff;
    for (int i = options.varbinds - 1; i >= 0; i--) {
        if (options.random || !slot->sent) {
            slot->rows[i] = 1 + draw(p, options.rows);
            slot->columns[i] = (int)draw(p, (unsigned long)options.column_count);
        }
        put_varbind(&w, options.columns[slot->columns[i]], slot->rows[i]);
    }
    put_header(&w, 0x30, end);
    put_integer(&w, 0);
    put_integer(&w, 0);
    put_integer(&w, slot->id);
    put_header(&w, GET, end);
    put_message(p, &w, end, slot->id, options.level);
    slot->sent = nanoseconds();
    send_request(p, &w, end);
}

static void check_answer(struct poller *p, const struct slot *slot, struct reader varbinds) {
    for (int i = 0; i < options.varbinds; i++) {
        struct reader varbind = take(&varbinds, 0x30), name = take(&varbind, 6);
        unsigned long column, row;
        if ((size_t)(name.end - name.at) <= options.entry_length ||
            memcmp(name.at, options.entry, options.entry_length) != 0)
            wrong("not the name that was asked for");
        name.at += options.entry_length;
        if (!next_subid(&name, &column) || !next_subid(&name, &row) || name.at != name.end ||
            column != options.columns[slot->columns[i]] || row != slot->rows[i])
            wrong("not the name that was asked for");
        take(&varbind, options.types[slot->columns[i]]);
    }
    if (varbinds.at != varbinds.end)
        wrong("more varbinds than were asked for");
    p->requests++;
    p->varbinds += (unsigned long)options.varbinds;
}

static struct slot *answered(struct poller *p) {
    uint32_t id = 0, message_id = 0;
    size_t size = receive(p);
    struct reader varbinds = varbinds_of(open_message(p, size, &message_id, options.level), &id);
    for (int i = 0; i < options.window; i++)
        if (p->slots[i].id == id) {
            if (options.v3 && message_id != id)
                wrong("msgID");
            check_answer(p, &p->slots[i], varbinds);
            return &p->slots[i];
        }
    wrong("request-id");
    return NULL;
}

static void gets(struct poller *p) {
    uint64_t until = p->started + (uint64_t)(options.seconds * 1e9), next = p->started;
    int under_way = 0;
    while (under_way < options.window)
        ask(p, &p->slots[under_way++]);
    while (under_way) {
        struct slot *slot = answered(p);
        record(p, slot->sent);
        if (options.count ? p->requests + (unsigned)under_way > options.count : nanoseconds() >= until) {
            under_way--;
            continue;
        }
        if (options.interval > 0) {
            uint64_t now = nanoseconds();
            struct timespec wake;
            next += (uint64_t)(options.interval * 1e9);
            if (next < now)
                next = now;
            wake.tv_sec = (time_t)(next / 1000000000u);
            wake.tv_nsec = (long)(next % 1000000000u);
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, NULL);
        }
        ask(p, slot);
    }
}

/* --- a walk ----------------------------------------------------------------------------------------------------- */

static uint64_t digest_of(uint64_t digest, const uint8_t *at, const uint8_t *end) {
    for (; at < end; at++)
        digest = (digest ^ *at) * UINT64_C(0x100000001b3); /* FNV-1a */
    return digest;
}

static void walk(struct poller *p) {
    int column = 0;
    unsigned long row = 0; /* the last instance that came: this row of this column */
    bool start = true, ended = false;
    while (!ended) {
        struct writer w = {p->out, p->out + sizeof p->out};
        uint8_t *end = w.at;
        uint32_t id = ++p->next_id & 0x7fffffff, got = 0, message_id = 0;
        uint64_t sent;
        struct reader varbinds;
        int count = 0;
        put_varbind(&w, start ? 0 : options.columns[column], row);
        put_header(&w, 0x30, end);
        put_integer(&w, (uint32_t)options.repetitions);
        put_integer(&w, 0);
        put_integer(&w, id);
        put_header(&w, GETBULK, end);
        put_message(p, &w, end, id, options.level);
        sent = nanoseconds();
        send_request(p, &w, end);
        varbinds = varbinds_of(open_message(p, receive(p), &message_id, options.level), &got);
        if (got != id || (options.v3 && message_id != id))
            wrong("request-id");
        record(p, sent);
        p->requests++;
        start = false;
        while (varbinds.at < varbinds.end) {
            struct reader varbind = take(&varbinds, 0x30), whole = varbind, name = take(&varbind, 6);
            unsigned long found_column, found_row;
            count++;
            if (ended)
                continue; /* beyond the table: of no interest */
            if (row == options.rows) {
                row = 0;
                if (++column == options.column_count) {
                    ended = true;
                    if ((size_t)(name.end - name.at) >= options.entry_length &&
                        memcmp(name.at, options.entry, options.entry_length) == 0 && *varbind.at != 0x82)
                        wrong("an instance behind the table's last");
                    continue;
                }
            }
            if ((size_t)(name.end - name.at) <= options.entry_length ||
                memcmp(name.at, options.entry, options.entry_length) != 0)
                wrong("a walk that leaves the table before its end");
            name.at += options.entry_length;
            if (!next_subid(&name, &found_column) || !next_subid(&name, &found_row) || name.at != name.end ||
                found_column != options.columns[column] || found_row != row + 1)
                wrong("not the instance that follows");
            take(&varbind, options.types[column]);
            if (options.digest)
                p->digest = digest_of(p->digest, whole.at, whole.end);
            row++;
            p->varbinds++;
        }
        if (count == 0 || count > options.repetitions)
            wrong("count of varbinds");
    }
    p->walks++;
}

static void walks(struct poller *p) {
    uint64_t until = p->started + (uint64_t)(options.seconds * 1e9);
    do
        walk(p);
    while (options.count ? p->walks < options.count : nanoseconds() < until);
    if (p->varbinds != p->walks * options.rows * (unsigned long)options.column_count)
        wrong("a walk's count of varbinds");
}

/* --- all together ----------------------------------------------------------------------------------------------- */

static pthread_barrier_t begin;

static void *poll_on(void *argument) {
    struct poller *p = argument;
    discover(p);
    pthread_barrier_wait(&begin);
    p->octets = 0;
    p->started = nanoseconds();
    (options.walk ? walks : gets)(p);
    p->ended = nanoseconds();
    return NULL;
}

static int connected(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    struct timeval patience = {10, 0};
    int made = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (made < 0 || connect(made, (struct sockaddr *)&to, sizeof to) != 0 ||
        setsockopt(made, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0)
        die("socket: %s", strerror(errno));
    return made;
}

static void parse_entry(const char *text) {
    struct writer w = {options.entry, options.entry + sizeof options.entry};
    unsigned long subids[32];
    int count = 0;
    char *rest;
    for (; *text && count < 32; text = *rest == '.' ? rest + 1 : rest) {
        subids[count++] = strtoul(text, &rest, 10);
        if (rest == text || (*rest && *rest != '.'))
            die("not an OID: %s", text);
    }
    if (count < 3)
        die("not an OID");
    while (count > 2)
        put_subid(&w, (uint32_t)subids[--count]);
    put_subid(&w, (uint32_t)(subids[0] * 40 + subids[1]));
    options.entry_length = (size_t)(options.entry + sizeof options.entry - w.at);
    memmove(options.entry, w.at, options.entry_length);
}

static void parse_columns(const char *text) {
    while (*text && options.column_count < MAX_COLUMNS) {
        unsigned column, type;
        int length = 0;
        if (sscanf(text, "%u:%x%n", &column, &type, &length) != 2)
            die("columns are NUMBER:TYPE,..., with the type's ASN.1 tag in hexadecimal");
        options.columns[options.column_count] = column;
        options.types[options.column_count++] = (uint8_t)type;
        text += length;
        text += *text == ',';
    }
}

static void parse(int argc, char **argv) {
    static const struct option known[] = {
        {"port", 1, 0, 'p'},     {"rows", 1, 0, 'r'},      {"entry", 1, 0, 'e'},   {"columns", 1, 0, 'c'},
        {"mode", 1, 0, 'm'},     {"seconds", 1, 0, 's'},   {"count", 1, 0, 'n'},   {"varbinds", 1, 0, 'v'},
        {"same", 0, 0, 'S'},     {"repetitions", 1, 0, 'R'}, {"pollers", 1, 0, 'P'}, {"window", 1, 0, 'w'},
        {"interval", 1, 0, 'i'}, {"level", 1, 0, 'l'},     {"digest", 0, 0, 'd'},  {0, 0, 0, 0},
    };
    int option;
    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (option) {
        case 'p': options.port = atoi(optarg); break;
        case 'r': options.rows = strtoul(optarg, NULL, 10); break;
        case 'e': parse_entry(optarg); break;
        case 'c': parse_columns(optarg); break;
        case 'm': options.walk = strcmp(optarg, "walk") == 0; break;
        case 's': options.seconds = atof(optarg); break;
        case 'n': options.count = strtoul(optarg, NULL, 10); break;
        case 'v': options.varbinds = atoi(optarg); break;
        case 'S': options.random = false; break;
        case 'R': options.repetitions = atoi(optarg); break;
        case 'P': options.pollers = atoi(optarg); break;
        case 'w': options.window = atoi(optarg); break;
        case 'i': options.interval = atof(optarg); break;
        case 'd': options.digest = true; break;
        case 'l':
            options.v3 = true;
            options.level = strcmp(optarg, "authPriv") == 0 ? AUTH_PRIV : strcmp(optarg, "auth") == 0 ? AUTH : NO_AUTH;
            break;
        default: fputs(USAGE, stderr); exit(2);
        }
    }
    if (!options.port || !options.rows || !options.column_count || !options.entry_length ||
        (options.seconds <= 0 && !options.count) || options.pollers < 1 || options.pollers > MAX_POLLERS ||
        options.varbinds < 1 || options.varbinds > MAX_VARBINDS || options.window < 1 ||
        options.window > MAX_WINDOW || (options.walk && options.window > 1)) {
        fputs(USAGE, stderr);
        exit(2);
    }
}

static int by_size(const void *a, const void *b) {
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

int main(int argc, char **argv) {
    struct poller *pollers;
    uint64_t started = UINT64_MAX, ended = 0;
    unsigned long requests = 0, varbinds = 0, walks = 0, octets = 0;
    size_t count = 0;
    uint32_t *all;
    parse(argc, argv);
    pollers = calloc((size_t)options.pollers, sizeof *pollers);
    if (!pollers)
        die("out of memory");
    pthread_barrier_init(&begin, NULL, (unsigned)options.pollers);
    for (int i = 0; i < options.pollers; i++) {
        struct poller *p = &pollers[i];
        p->number = i;
        p->random = UINT64_C(0x9e3779b97f4a7c15) * (unsigned)(i + 1);
        p->next_id = (uint32_t)(i + 1) << 20;
        p->digest = UINT64_C(0xcbf29ce484222325);
        p->socket = connected();
        if (pthread_create(&p->thread, NULL, poll_on, p) != 0)
            die("no thread");
    }
    for (int i = 0; i < options.pollers; i++) {
        struct poller *p = &pollers[i];
        pthread_join(p->thread, NULL);
        started = p->started < started ? p->started : started;
        ended = p->ended > ended ? p->ended : ended;
        requests += p->requests;
        varbinds += p->varbinds;
        walks += p->walks;
        octets += p->octets;
        count += p->latency_count;
    }
    all = malloc((count + 1) * sizeof *all);
    if (!all)
        die("out of memory");
    for (int i = 0, at = 0; i < options.pollers; at += (int)pollers[i].latency_count, i++)
        memcpy(all + at, pollers[i].latencies, pollers[i].latency_count * sizeof *all);
    qsort(all, count, sizeof *all, by_size);
    printf("{\"requests\": %lu, \"varbinds\": %lu, \"walks\": %lu, \"octets\": %lu, \"seconds\": %.6f", requests,
           varbinds, walks, octets, (double)(ended - started) / 1e9);
    printf(", \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"worst\": %.1f", all[count / 2] / 1e3,
           all[count * 90 / 100] / 1e3, all[count * 99 / 100] / 1e3, all[count * 999 / 1000] / 1e3,
           all[count - 1] / 1e3);
    if (options.digest)
        printf(", \"digest\": \"%016" PRIx64 "\"", pollers[0].digest);
    puts("}");
    return 0;
}
