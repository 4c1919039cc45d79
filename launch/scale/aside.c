/* SPDX-License-Identifier: Apache-2.0 */
/* A second thread to compute in, while this one exchanges: MPI is called by the main thread
 * only, and moves large messages only while it is called. The thread stays, and so do the
 * threads that it computes with. */
#include "launch/scale/scale.h"

#include <pthread.h>
#include <stdlib.h>

struct scale_aside {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    banyan_status (*work)(void *);
    void *arg;
    bool busy, ends;
    banyan_status status;
};

static void *serve(void *argument)
{
    scale_aside *a = argument;
    pthread_mutex_lock(&a->lock);
    for (;;) {
        while (!a->busy && !a->ends) pthread_cond_wait(&a->changed, &a->lock);
        if (a->ends) break;
        pthread_mutex_unlock(&a->lock);
        banyan_status status = a->work(a->arg);
        pthread_mutex_lock(&a->lock);
        a->status = status;
        a->busy = false;
        pthread_cond_broadcast(&a->changed);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

scale_aside *scale_aside_create(void)
{
    scale_aside *a = calloc(1, sizeof *a);
    if (!a) return NULL;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    if (!pthread_create(&a->thread, NULL, serve, a)) return a;
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
    free(a);
    return NULL;
}

void scale_aside_destroy(scale_aside *a)
{
    if (!a) return;
    pthread_mutex_lock(&a->lock);
    a->ends = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    pthread_join(a->thread, NULL);
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

void scale_aside_start(scale_aside *a, banyan_status (*work)(void *), void *arg)
{
    pthread_mutex_lock(&a->lock);
    a->work = work;
    a->arg = arg;
    a->busy = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

bool scale_aside_busy(scale_aside *a)
{
    pthread_mutex_lock(&a->lock);
    bool busy = a->busy;
    pthread_mutex_unlock(&a->lock);
    return busy;
}

banyan_status scale_aside_wait(scale_aside *a)
{
    pthread_mutex_lock(&a->lock);
    while (a->busy) pthread_cond_wait(&a->changed, &a->lock);
    banyan_status status = a->status;
    pthread_mutex_unlock(&a->lock);
    return status;
}
