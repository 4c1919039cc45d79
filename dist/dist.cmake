target_sources(banyan PRIVATE
  dist/append.c
  dist/attend.c
  dist/cache.c
  dist/deal.c
  dist/list.c
  dist/merge_passes.c
  dist/merge_rows.c
  dist/panel.c
  dist/placements.c
  dist/plan.c
  dist/plan_bind.c
  dist/plan_draw.c
  dist/plan_print.c
  dist/plan_cover.c
  dist/plan_hash.c
  dist/plan_kernel.c
  dist/plan_memory.c
  dist/plan_merge.c
  dist/plan_place.c
  dist/plan_share.c
  dist/plan_workspace.c
  dist/spec.c
  dist/sums.c
  dist/threads.c)
banyan_rows(banyan dist placements place)
