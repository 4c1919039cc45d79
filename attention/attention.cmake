target_sources(banyan PRIVATE attention/dtype.c attention/kernels.c attention/partial.c
                              attention/retention.c attention/selection.c attention/selectors.c)
banyan_rows(banyan attention selectors select)
banyan_rows(banyan attention kernels kernel)
