target_sources(banyan PRIVATE
  dist/append.c
  dist/arena.c
  dist/attend.c
  dist/cache.c
  dist/combine.c
  dist/compensation.c
  dist/kept.c
  dist/sequence.c
  dist/step.c
  dist/summary.c
  dist/turns.c
  dist/deal.c
  dist/device_append.c
  dist/device_attend.c
  dist/device_layout.c
  dist/device_merge.c
  dist/device_open.c
  dist/device_passes.c
  dist/device_step.c
  dist/device_tables.c
  dist/device_tape.c
  dist/groups.c
  dist/host_backend.c
  dist/lines.c
  dist/list.c
  dist/merge_passes.c
  dist/merge_rows.c
  dist/panel.c
  dist/pick.c
  dist/pieces.c
  dist/placements.c
  dist/pooled.c
  dist/plan.c
  dist/plan_alloc.c
  dist/plan_bind.c
  dist/plan_draw.c
  dist/plan_pick.c
  dist/plan_print.c
  dist/plan_cover.c
  dist/plan_fits.c
  dist/plan_hash.c
  dist/plan_kernel.c
  dist/plan_kinds.c
  dist/plan_lines.c
  dist/plan_memory.c
  dist/plan_merge.c
  dist/plan_place.c
  dist/plan_share.c
  dist/plan_workspace.c
  dist/snapshot_blocks.c
  dist/snapshot_bytes.c
  dist/snapshot_file.c
  dist/snapshot_find.c
  dist/snapshot_folder.c
  dist/snapshot_format.c
  dist/snapshot_index.c
  dist/snapshot_look.c
  dist/snapshot_open.c
  dist/snapshot_remove.c
  dist/snapshot_save.c
  dist/snapshot_sums.c
  dist/snapshot_tables.c
  dist/spec.c
  dist/sums.c
  dist/threads.c)
banyan_rows(banyan dist placements place)

# The checksums of snapshots; without its header there are none.
find_path(BANYAN_XXHASH_INCLUDE xxhash.h)
mark_as_advanced(BANYAN_XXHASH_INCLUDE)
if(BANYAN_XXHASH_INCLUDE)
  target_compile_definitions(banyan PRIVATE BANYAN_HAS_XXHASH=1)
  set_source_files_properties(dist/snapshot_bytes.c PROPERTIES COMPILE_OPTIONS
    "$<$<NOT:$<CONFIG:Debug>>:-O3>;-idirafter${BANYAN_XXHASH_INCLUDE}")
endif()
