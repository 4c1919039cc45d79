#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# platform.sh NODES INSIDE BETWEEN: the SimGrid platform of a cluster with 8 ranks on a node as XML.
# INSIDE, BETWEEN: "SECONDS,BYTES/SECOND", latency and bandwidth of a rank's link to another of its
# node, of another node. A host is one rank's processor.
#
#     node    every host has a port to its node's own switch and an adapter of its own to the network
#     leaf    16 nodes on a switch, whose inside is no limit
#     spine   a two-level fat tree: 16 links from each leaf, of a node's bandwidth each, so that all
#             nodes of a leaf can send at once; a message goes up by the destination's number mod 16
#
# Latency lies on the ports and adapters alone: half at either end, the same for all nodes.
exec awk -v nodes="$1" -v per=8 -v inside="$2" -v between="$3" '
function link(id, bps, s) {
    printf "<link id=\"%s\" bandwidth=\"%.0fBps\" latency=\"%.1fns\" sharing_policy=\"SPLITDUPLEX\"/>\n", id, bps, s * 1e9
}
function hop(id, way) { return "<link_ctn id=\"" id "\" direction=\"" way "\"/>" }
function node(n,   i, j) {
    printf "<zone id=\"node%d\" routing=\"Full\">\n", n
    for (i = 0; i < per; i++) printf "<host id=\"h%d\" speed=\"1Gf\"/>\n", n * per + i
    printf "<router id=\"switch%d\"/>\n", n
    for (i = 0; i < per; i++) {
        link("port" n * per + i, in_bps, in_s / 2)
        link("adapter" n * per + i, out_bps, out_s / 2)
    }
    for (i = 0; i < per; i++) {
        printf "<route src=\"h%d\" dst=\"switch%d\">%s</route>\n", n * per + i, n, hop("adapter" n * per + i, "UP")
        for (j = i + 1; j < per; j++)
            printf "<route src=\"h%d\" dst=\"h%d\">%s%s</route>\n", n * per + i, n * per + j, hop("port" n * per + i, "UP"), hop("port" n * per + j, "DOWN")
    }
    print "</zone>"
}
BEGIN {
    leaf = 16
    split(inside, numbers, ","); in_s = numbers[1]; in_bps = numbers[2]
    split(between, numbers, ","); out_s = numbers[1]; out_bps = numbers[2]
    print "<?xml version=\"1.0\"?>\n<!DOCTYPE platform SYSTEM \"https://simgrid.org/simgrid.dtd\">"
    print "<platform version=\"4.1\">\n<zone id=\"cluster\" routing=\"Full\">"
    for (n = 0; n < nodes; n++) node(n)
    for (l = 0; l * leaf < nodes; l++) {
        printf "<link id=\"leaf%d\" bandwidth=\"1000TBps\" latency=\"0ns\" sharing_policy=\"FATPIPE\"/>\n", l
        for (s = 0; s < leaf; s++) link("up" l "_" s, per * out_bps, 0)
    }
    for (a = 0; a < nodes; a++)
        for (b = 0; b < nodes; b++) {
            if (a == b) continue
            from = int(a / leaf); to = int(b / leaf); spine = b % leaf
            way = from == to ? "<link_ctn id=\"leaf" from "\"/>" : hop("up" from "_" spine, "UP") hop("up" to "_" spine, "DOWN")
            printf "<zoneRoute src=\"node%d\" dst=\"node%d\" gw_src=\"switch%d\" gw_dst=\"switch%d\" symmetrical=\"NO\">%s</zoneRoute>\n", a, b, a, b, way
        }
    print "</zone>\n</platform>"
}'
