"""Whether addresses exist: their hosts asked, and nothing sent."""
