// SPDX-License-Identifier: Apache-2.0
// libggml's back ends: those beside it (a private copy) or where it was told to look (a system's package).
#ifndef TD_HOST_BACKENDS_H
#define TD_HOST_BACKENDS_H

// Loads them. Opens files, so before the sandbox. The main thread, once. None found shows as
// ggml_backend_dev_count() == 0.
void host_backends_load(void);

#endif
