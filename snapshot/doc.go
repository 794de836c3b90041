// Package snapshot is the file format of snapshots and backups: a header,
// records, a footer. It knows nothing of what the records hold.
//
// Goals, in this order:
//
//  1. No damage goes unseen. A flipped bit, a torn end, a lost or doubled
//     record, and bytes after the end are all errors, never a smaller state.
//  2. The place of the damage is named, by byte offset.
//  3. Writing and reading stream: neither side holds the file in memory, and
//     garbage cannot make the reader allocate more than it reads, nor more
//     than one record.
//
// It does not compress, encrypt, or prove who wrote a file.
//
// # Layout
//
// All integers are little-endian; CRC is CRC-32C (Castagnoli).
//
// The header is 40 bytes. Magic, format version and CRC keep their place in
// every version to come, so that an unknown version is told from damage.
//
//	off  size  field
//	  0     8  magic, "RLSNAP\r\n"
//	  8     2  format version, 1
//	 10     1  kind: 1 buckets, 2 catalog
//	 11     1  0
//	 12     2  version of the records' content, counted by each kind
//	 14     2  0
//	 16     4  shard: the Raft group's number
//	 20     4  CRC of the header without these four bytes
//	 24     8  index: the last Raft index in this state
//	 32     8  time: the last cluster time in this state, nanoseconds
//
// Any number of records follow, each:
//
//	off  size  field
//	  0     1  type, 1 to 255, of the kind's own choosing
//	  1     3  length n of the payload, 0 to 2^24-1
//	  4     4  CRC of the four bytes above and the payload
//	  8     n  payload
//
// The footer is a record of type 0 with 40 bytes of payload, and ends the file:
//
//	off  size  field
//	  8     8  number of records, without the footer
//	 16    32  SHA-256 of all bytes of the file before the footer
//
// # What a crash leaves
//
// The footer is written last, by [Writer.Close]. A crash before it leaves a
// file without a footer, which reads as [ErrCorrupt]. Whether the file is on
// disk after Close is the caller's to ensure (sync, then rename).
//
// # What is left of a damaged file
//
// Nothing is installed of it, unless somebody asks for what is left: [Salvage] finds the
// records that are whole, and tells where one is not.
package snapshot
