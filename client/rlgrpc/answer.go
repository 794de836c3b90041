package rlgrpc

import (
	"errors"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rlstore/rlstore/client"
)

// header tells the limit that binds: what it is, what is left of it, and the
// seconds until it is full, or on a denial until the call passes. A decision that
// nobody made has none.
func header(d *client.Decision) metadata.MD {
	if d.Limit == 0 {
		return nil
	}
	wait := d.ResetAfter
	if !d.Allowed {
		wait = d.RetryAfter
	}
	s := wait / time.Second
	if wait%time.Second > 0 {
		s++
	}
	return metadata.Pairs(
		"ratelimit-limit", strconv.FormatInt(d.Limit, 10),
		"ratelimit-remaining", strconv.FormatInt(d.Remaining, 10),
		"ratelimit-reset", strconv.FormatInt(int64(s), 10))
}

// denial is the end of a call that is denied.
func denial(d *client.Decision) error {
	s := status.New(codes.ResourceExhausted, "the rate limit of this call is exceeded; it passes in "+d.RetryAfter.String())
	detailed, err := s.WithDetails(
		&errdetails.RetryInfo{RetryDelay: durationpb.New(d.RetryAfter)},
		&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{
			Subject: d.Policy, Description: "the limit is " + strconv.FormatInt(d.Limit, 10),
		}}},
	)
	if err != nil { // the types are fixed, and all encode
		panic(err)
	}
	return detailed.Err()
}

// undecided is the end of a call that the store could not decide, or nil.
func (i *Interceptor) undecided(err error) error {
	outage := errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrOutcomeUnknown)
	switch {
	case outage && i.open:
		return nil
	case outage:
		return status.Error(codes.Unavailable, "the rate limit of this call cannot be checked at present")
	case errors.Is(err, client.ErrInvalidRequest): // its key or its cost, which come from the call
		return status.Error(codes.InvalidArgument, "the call cannot be charged to whom it names")
	}
	return status.Error(codes.Internal, "the rate limit of this call is not set up rightly")
}
