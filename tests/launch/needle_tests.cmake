# The needle evaluation: its parts in one process.
banyan_unit_test(needle_parts_test launch/needle_parts_test.c)
target_link_libraries(needle_parts_test PRIVATE banyan_launch)
