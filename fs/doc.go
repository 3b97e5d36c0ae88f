// Package fs serves container image layers from two FUSE mounts per node while
// their content is still on its way, and turns each into an ordinary directory
// once it is there.
//
// A layer is a blob with an index (package index). Its folder layers/N holds
// the index, a bitmap of the chunks that are on disk and one backing file per
// regular file. N is the layer's slot: in the mounts m and n it is a directory
// of that name, and a FUSE node ID is slot<<32 | inode, so that the server
// keeps no state of the kernel's and any later process can answer. A slot is
// never given to another layer.
//
// m serves every layer. n serves those without xattrs and answers GETXATTR
// with ENOSYS, after which the kernel never asks again: overlayfs asks several
// times per inode.
//
// Lock order: FS.mu, then Layer.mu, then flight.mu or FS.gate. None is held during I/O on
// the network.
package fs
