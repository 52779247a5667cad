"""A stand-in for Supabase Realtime: its wire, its rights by RLS, its HTTP doors; nothing of the product."""
