package origin

import "time"

// SetClock changes what time a client thinks it is.
func (c *Client) SetClock(now func() time.Time) { c.now = now }

// RecheckHosts is how long a registry's files are not looked at again.
const RecheckHosts = recheckHosts
