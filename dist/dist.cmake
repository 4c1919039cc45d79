target_sources(banyan PRIVATE
  dist/deal.c
  dist/list.c
  dist/placements.c
  dist/plan.c
  dist/plan_bind.c
  dist/plan_draw.c
  dist/plan_print.c
  dist/plan_cover.c
  dist/plan_hash.c
  dist/plan_memory.c
  dist/plan_merge.c
  dist/plan_place.c
  dist/plan_share.c
  dist/plan_workspace.c
  dist/spec.c)
banyan_rows(banyan dist placements place)
