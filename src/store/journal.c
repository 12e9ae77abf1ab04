// SPDX-License-Identifier: Apache-2.0
#include "store/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

#define PAGE 4096u
#define ALIGN 32u // so that a record's header never straddles the end
#define HOME_BYTES                                                                                                     \
    (1u << 20) // an empty ring begins again at its start beyond this, so that idle traffic keeps to few pages
#define KIND_PAD 0xffffffffu
#define MAGIC 0x31676e6972647461ull // "atdring1"

struct file_header {
    uint64_t magic, capacity;
    _Alignas(64) _Atomic uint64_t tail; // workers'
    _Alignas(64) _Atomic uint64_t head; // writer's
};

enum { RESERVED = 0, COMMITTED = 0x436f6d21 };

struct record_header {
    uint32_t total, n; // with header and padding; payload alone
    uint64_t number;
    uint32_t kind;
    _Atomic uint32_t state;
    uint64_t sum;
};
_Static_assert(sizeof(struct record_header) == ALIGN, "a record header fills one unit");
_Static_assert(sizeof(struct file_header) <= PAGE, "the file header fits its page");

struct td_journal {
    struct file_header *file;
    unsigned char *data;
    uint64_t capacity;
    size_t mapped;
    pthread_mutex_t lock; // guards reservation: tail and next
    _Atomic uint64_t next;
};

// Not cryptographic: it tells torn from whole. Whoever can write the file can write the database too.
static uint64_t sum_of(const struct record_header *h) {
    const unsigned char *p = (const unsigned char *)(h + 1);
    uint64_t sum = h->number ^ ((uint64_t)h->kind << 32 | h->n), w;
    size_t i = 0;
    for (; i + 8 <= h->n; i += 8) {
        memcpy(&w, p + i, 8);
        sum = (sum ^ w) * 0x9e3779b97f4a7c15ull;
        sum ^= sum >> 29;
    }
    if (i < h->n) {
        w = 0;
        memcpy(&w, p + i, h->n - i);
        sum = (sum ^ w) * 0x9e3779b97f4a7c15ull;
        sum ^= sum >> 29;
    }
    return sum;
}

static bool usable(int fd, struct file_header *header) {
    struct stat st;
    return fstat(fd, &st) == 0 && pread(fd, header, sizeof *header, 0) == (ssize_t)sizeof *header &&
           header->magic == MAGIC && header->capacity >= PAGE && header->capacity % PAGE == 0 &&
           header->capacity < (1ull << 40) && (uint64_t)st.st_size == header->capacity + PAGE;
}

static enum td_err map(struct td_journal *j, int fd, uint64_t capacity, struct td_error *e) {
    // Allocated here, not written: a store into a hole of a full disk would be a SIGBUS.
    int rc = posix_fallocate(fd, 0, (off_t)(capacity + PAGE));
    if (rc != 0)
        return td_error_set(e, TD_ERR_IO, "while allocating the hand-over ring: %s", strerror(rc));
    void *p = mmap(NULL, capacity + PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return td_error_set(e, TD_ERR_IO, "while mapping the hand-over ring: %s", strerror(errno));
    j->file = p;
    j->data = (unsigned char *)p + PAGE;
    j->capacity = capacity;
    j->mapped = capacity + PAGE;
    return TD_OK;
}

// An empty ring of another size than asked for is made anew; one with records is kept as it is until they are taken.
enum td_err td_journal_open(int dir_fd, const char *name, size_t bytes, struct td_journal **out, struct td_error *e) {
    enum td_err err;
    struct file_header header;
    uint64_t want = (bytes + PAGE - 1) / PAGE * PAGE;
    if (want < 16 * PAGE)
        want = 16 * PAGE;
    struct td_journal *j = td_calloc(1, sizeof *j);
    if (!j)
        return td_error_set(e, TD_ERR_NOMEM, "while opening the hand-over ring");
    pthread_mutex_init(&j->lock, NULL);
    int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        err = td_error_set(e, TD_ERR_IO, "while opening %s: %s", name, strerror(errno));
        goto out;
    }
    bool keep = usable(fd, &header);
    if (keep && header.capacity != want && atomic_load(&header.head) == atomic_load(&header.tail))
        keep = false;
    if (!keep && ftruncate(fd, 0) != 0) {
        err = td_error_set(e, TD_ERR_IO, "while emptying %s: %s", name, strerror(errno));
        goto out;
    }
    err = map(j, fd, keep ? header.capacity : want, e);
    if (err == TD_OK && !keep) {
        j->file->capacity = want;
        j->file->magic = MAGIC;
    }
out:
    if (fd >= 0)
        close(fd);
    if (err == TD_OK)
        *out = j;
    else
        td_journal_close(j);
    return err;
}

void td_journal_close(struct td_journal *j) {
    if (!j)
        return;
    if (j->file)
        munmap(j->file, j->mapped);
    pthread_mutex_destroy(&j->lock);
    td_free(j);
}

void td_journal_restart(struct td_journal *j, uint64_t next) {
    // Tail first: killed in between, the ring reads as empty.
    atomic_store(&j->file->tail, 0);
    atomic_store(&j->file->head, 0);
    atomic_store(&j->next, next);
}

static struct record_header *at(const struct td_journal *j, uint64_t position) {
    return (struct record_header *)(j->data + position % j->capacity);
}

static void put_header(struct record_header *h, uint32_t total, size_t n, uint32_t kind, uint64_t number) {
    atomic_store_explicit(&h->state, RESERVED, memory_order_relaxed);
    h->total = total;
    h->n = (uint32_t)n;
    h->kind = kind;
    h->number = number;
}

void *td_journal_reserve(struct td_journal *j, uint32_t kind, size_t n, uint64_t *number) {
    uint64_t total = (sizeof(struct record_header) + n + ALIGN - 1) / ALIGN * ALIGN;
    struct record_header *h = NULL;
    if (n > j->capacity || total > j->capacity / 2)
        return NULL;
    pthread_mutex_lock(&j->lock);
    uint64_t tail = atomic_load_explicit(&j->file->tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&j->file->head, memory_order_acquire);
    uint64_t to_end = j->capacity - tail % j->capacity;
    bool go_home = tail == head && tail % j->capacity >= HOME_BYTES;
    uint64_t pad = total > to_end || go_home ? to_end : 0;
    if (total + pad <= j->capacity - (tail - head)) {
        if (pad)
            put_header(at(j, tail), (uint32_t)pad, 0, KIND_PAD, 0);
        h = at(j, tail + pad);
        *number = atomic_load_explicit(&j->next, memory_order_relaxed);
        put_header(h, (uint32_t)total, n, kind, *number);
        atomic_store(&j->next, *number + 1);
        atomic_store_explicit(&j->file->tail, tail + pad + total, memory_order_release);
    }
    pthread_mutex_unlock(&j->lock);
    return h ? h + 1 : NULL;
}

void td_journal_commit(void *payload) {
    struct record_header *h = (struct record_header *)payload - 1;
    h->sum = sum_of(h);
    atomic_store_explicit(&h->state, COMMITTED, memory_order_release);
}

uint64_t td_journal_next_number(const struct td_journal *j) {
    return atomic_load(&j->next);
}

unsigned td_journal_fill(const struct td_journal *j) {
    uint64_t head = atomic_load_explicit(&j->file->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&j->file->tail, memory_order_relaxed);
    return tail > head ? (unsigned)((tail - head) * 256 / j->capacity) : 0;
}

uint64_t td_journal_head(const struct td_journal *j) {
    return atomic_load_explicit(&j->file->head, memory_order_relaxed);
}

bool td_journal_next(const struct td_journal *j, uint64_t *cursor, struct td_journal_record *out, bool *waiting) {
    *waiting = false;
    while (*cursor < atomic_load_explicit(&j->file->tail, memory_order_acquire)) {
        struct record_header *h = at(j, *cursor);
        if (h->kind == KIND_PAD) {
            *cursor += h->total;
            continue;
        }
        if (atomic_load_explicit(&h->state, memory_order_acquire) != COMMITTED) {
            *waiting = true;
            return false;
        }
        *out = (struct td_journal_record){h->number, h->kind, (unsigned char *)(h + 1), h->n};
        *cursor += h->total;
        return true;
    }
    return false;
}

void td_journal_release(struct td_journal *j, uint64_t cursor) {
    atomic_store_explicit(&j->file->head, cursor, memory_order_release);
}

static bool makes_sense(const struct td_journal *j, const struct record_header *h, uint64_t position, uint64_t tail) {
    return h->total >= ALIGN && h->total % ALIGN == 0 && h->total <= tail - position &&
           h->total <= j->capacity - position % j->capacity && h->n <= h->total - sizeof *h;
}

bool td_journal_recover(const struct td_journal *j, uint64_t *cursor, struct td_journal_record *out, uint64_t *lost) {
    uint64_t tail = atomic_load(&j->file->tail);
    while (*cursor < tail && *cursor % ALIGN == 0 && tail - *cursor <= j->capacity) {
        struct record_header *h = at(j, *cursor);
        if (!makes_sense(j, h, *cursor, tail)) {
            (*lost)++;
            return false;
        }
        *cursor += h->total;
        if (h->kind == KIND_PAD)
            continue;
        if (atomic_load(&h->state) != COMMITTED || h->sum != sum_of(h)) {
            (*lost)++;
            continue;
        }
        *out = (struct td_journal_record){h->number, h->kind, (unsigned char *)(h + 1), h->n};
        return true;
    }
    return false;
}
