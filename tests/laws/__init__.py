"""Laws over everything they speak of: each crosses the registry, the dtypes or the formats with the forms."""
