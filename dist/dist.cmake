banyan_rows(banyan dist placements place)
