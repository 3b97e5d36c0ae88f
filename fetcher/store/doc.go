// Package store keeps the bytes of blobs on disk: whatever ranges have
// arrived, in any order, under a byte quota.
//
// On disk a blob is the folder <dir>/<algorithm>/<hex> with the sparse file
// data and the maps that say which of its bytes count:
//
//   - map is durable. It is written after the data it lists was synced, so
//     after a power loss it lists no byte that is not there.
//   - map.boot is written every second without any sync and names the boot of
//     the kernel that held the pages. While that kernel runs (the process was
//     killed, not the machine) it is the truth and newer than map; after a
//     reboot it is ignored.
//
// A killed process thus loses a second's worth of bytes and a crashed machine
// ten, while writing never waits for the disk and a container that starts does
// not compete with a sync every second. A range that no map lists is gone.
//
// Bytes that are there are never overwritten: a write stores only what is
// missing. So what a reader or a hash has seen stays as it was until Discard or
// Drop.
//
// Lock order: Store.mu, Blob.life, Blob.write, Blob.io, Blob.mu, Store.dirtyMu.
package store
