/* SPDX-License-Identifier: Apache-2.0 */
/* Every block up to the row's own; all are kept for good. */
#include "attention/window.h"

static const banyan_param params[] = {{.name = NULL}};

const banyan_selector banyan_select_dense = {
    .name = "dense",
    .params = params,
    .reads = banyan_all_reads,
    .select = banyan_all_select,
    .keeps = banyan_all_keeps,
};
