// SPDX-License-Identifier: Apache-2.0
// Where files lie that came with the program: around the running program and around the library (a build folder, an
// installed tree, a staged one), else in the places it was configured for. Any thread; reads the file system.
#ifndef TD_BASE_PLACE_H
#define TD_BASE_PLACE_H

// The path of `name` (a file's name, or a relative path such as "models/starter.gguf"); NULL where there is none or
// without memory. Free with td_free.
char *td_place_find(const char *name);

#endif
