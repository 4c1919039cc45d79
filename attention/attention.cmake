banyan_rows(banyan attention selectors select)
banyan_rows(banyan attention kernels kernel)
