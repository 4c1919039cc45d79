banyan_unit_test(deal_test dist/deal_test.c)
banyan_unit_test(placement_test dist/placement_test.c)
banyan_unit_test(spec_test dist/spec_test.c)
