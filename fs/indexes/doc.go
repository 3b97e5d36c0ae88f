// Package indexes keeps the indexes of layers that this host has seen whole, and
// shares them with the cluster.
//
// An index is kept by the digest of its layer, for when that is wanted again.
// Where there are other hosts it is packed, put into the store as a blob of its
// own, and offered to them; a seed makes one of each blob that it was ordered to
// fetch whole. Who wants a layer that it has no index of asks the cluster: one
// read of the head of a pack, and the layer can be mounted.
//
// An index from elsewhere is a promise. Its chunks are checked as they are read;
// whether its tree is that of the blob is seen when the layer is full. Who finds
// a false one tells everybody (False).
package indexes
