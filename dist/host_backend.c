/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU's steps of a call. */
#include "dist/cache.h"

const banyan_way banyan_host_way = {.write = banyan_host_write,
                                    .compute = banyan_panel_compute,
                                    .send = banyan_panel_send,
                                    .merge = banyan_panel_merge,
                                    .look = banyan_panel_look,
                                    .copy = banyan_host_copy};
