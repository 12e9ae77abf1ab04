// SPDX-License-Identifier: Apache-2.0
// Texts of the outbox at rest: sealed on the caller's thread, before an operation goes to the writer, which moves bytes
// only.
#include <stdio.h>

#include "store/inner.h"
#include "store/outbox.h"
#include "store/seal.h"

// What a sealed text is bound to: no text can stand in for another's.
static struct td_str bound_to(char out[160], const char *what, struct td_str id) {
    int n = snprintf(out, 160, "%s/%.*s", what, (int)(id.n < 128 ? id.n : 128), id.p ? id.p : "");
    return td_str_n(out, (size_t)n);
}

bool td_outbox_seal(struct td_store *store, struct td_arena *arena, const char *what, struct td_str id,
                    struct td_str text, struct td_str *out) {
    char bound[160];
    struct td_buf sealed;
    *out = TD_STR_NONE;
    if (text.n == 0)
        return true;
    td_buf_init(&sealed, text.n + TD_SEAL_OVERHEAD_BYTES);
    if (td_seal(store->seal_key, bound_to(bound, what, id), text, &sealed) == TD_OK)
        *out = td_arena_str(arena, td_buf_str(&sealed));
    td_buf_finish(&sealed);
    return out->p != NULL;
}

enum td_err td_outbox_unseal(struct td_store *store, const char *what, struct td_str id, struct td_str sealed,
                             struct td_buf *buf, struct td_str *out, struct td_error *e) {
    char bound[160];
    td_buf_init(buf, TD_OUTBOX_ENTRY_BYTES_MAX + TD_SEAL_OVERHEAD_BYTES);
    if (sealed.n == 0)
        return TD_OK;
    enum td_err err = td_unseal(store->seal_key, bound_to(bound, what, id), sealed, buf);
    *out = td_buf_str(buf);
    return err == TD_OK ? TD_OK : td_error_set(e, err, "while opening a sealed text of the outbox");
}
