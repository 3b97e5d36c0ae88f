// Package p2ptest runs the decision cores of scheduler and hosts, p2p/sched and
// p2p/swarm, over a virtual network and clock: thousands of hosts in one
// process, the same every time for the same seed.
//
// # What is modelled
//
// Time goes in steps. Each machine has an uplink and a downlink of some bytes
// per second, which its transfers share evenly, max-min over the network (two
// transfers of one host that are held up elsewhere leave their share to the
// others). Messages and requests take the network's delay plus a random part;
// a lost one arrives after a retransmission timeout, as TCP would have it.
// Across a partition nothing arrives. A host that dies goes silent or says so
// by resets. Servers have upload slots and answer 503 when they are taken.
//
// Content is represented by sums: a piece is right, or it is not. Lying hosts
// serve wrong pieces, claim what they do not have, report sums of their own
// making and accuse the innocent.
//
// # What is not
//
// Slow start, queues in switches, CPU and disks. The figures say what the
// decisions are worth, not what a machine can do.
//
// # A large one
//
//	go test ./p2p/p2ptest -run TestBig -big -hosts 10000 -v -timeout 1h
//
// runs the same with the hosts of a large cluster, and prints when they had the
// blob and what left the origin. The bound that this is compared with is
// max(F/origin, F/down, N·F/(origin + ΣUp)) for F bytes to N hosts.
package p2ptest
